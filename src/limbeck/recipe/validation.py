"""Validation: plain data in, a Recipe out, or one line that says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from limbeck.errors import RecipeError
from limbeck.recipe.messages import mistakes_in, summarise
from limbeck.recipe.schema import Recipe

T = TypeVar("T")


@cache
def adapter() -> TypeAdapter[Recipe]:
    """Return the one validator of recipes."""
    return TypeAdapter(Recipe)


def validate(plain: Mapping[str, Any], lines: Mapping[str, int] | None = None) -> Recipe:
    """Return the recipe that plain data describe.

    Validation is strict: "5" is no number and 1 is no boolean, as YAML and Python both know what
    they mean; whole numbers do where a number is wanted, lists where a tuple is.

    Args:
        plain: what YAML or Python said (see :func:`limbeck.recipe.plain.as_plain`), with paths
            resolved and recipes of teachers read (see :mod:`limbeck.recipe.loading`).
        lines: the line of each dotted key in its file, to be named in the message.

    Raises:
        RecipeError: one line: the first mistake, and the keys of the others.
    """
    return validate_as(adapter(), Recipe, plain, lines)


def validate_as(
    adapter: TypeAdapter[T],
    root: type[T],
    plain: Mapping[str, Any],
    lines: Mapping[str, int] | None = None,
) -> T:
    """Return the ``root`` that plain data describe; see :func:`validate`.

    Args:
        adapter: the validator of ``root``.
        root: a dataclass, for the names of known keys.
        plain: what YAML or Python said.
        lines: the line of each dotted key in its file.

    Raises:
        RecipeError: one line: the first mistake, and the keys of the others.
    """
    try:
        # JSON mode: strict about numbers and text, yet mappings may stand for dataclasses.
        return adapter.validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        found = mistakes_in(error, root)
    raise RecipeError(summarise(found) + _where(found[0][0], lines or {}))


def _where(key: str, lines: Mapping[str, int]) -> str:
    """Return " (line 12)" for the key, or for the nearest one above it that has a line."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return f" (line {lines[key]})" if key else ""
