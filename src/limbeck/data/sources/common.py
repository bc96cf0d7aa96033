"""What every source does with the common options."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from limbeck.data.splits import Size
from limbeck.errors import DataError


def require(module: str, package: str, extra: str) -> None:
    """Raise DataError with the line to type where an optional package is not installed."""
    try:
        import_module(module)
    except ImportError as error:
        raise DataError(
            f"reading these data needs {package}: pip install 'limbeck[{extra}]'"
        ) from error


def common_options(common: Mapping[str, Any], validation: Size | None = None) -> dict[str, Any]:
    """Return the common options as ``bundle_from`` names them.

    Args:
        common: what the user gave.
        validation: the set's own default size of the validation part.
    """
    options: dict[str, Any] = dict(common)
    given = options.pop("validation", None)
    return {"validation_size": validation if given is None else given, **options}


def of_cuts(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options that ``make_splits`` takes, for sources that cut by themselves."""
    keys = ("num_train", "imbalance", "label_fraction", "labels_per_class", "seed")
    return {key: options[key] for key in keys if key in options}


def after_cuts(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those that ``bundle_from`` still has to see to, once the parts are cut."""
    keys = ("augment", "label_noise", "leave_out")
    return {key: options[key] for key in keys if key in options}
