"""What every source does with the common options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.data.splits import Size


def common_options(common: Mapping[str, Any], validation: Size | None = None) -> dict[str, Any]:
    """Return the common options as ``bundle_from`` names them.

    Args:
        common: what the user gave.
        validation: the set's own default size of the validation part.
    """
    options: dict[str, Any] = dict(common)
    given = options.pop("validation", None)
    return {"validation_size": validation if given is None else given, **options}
