"""Plain data: what a recipe is made of before it is validated (text, numbers, lists, mappings)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from limbeck.errors import RecipeError
from limbeck.methods.base import Method
from limbeck.methods.compose import MethodSum

_MAX_DEPTH = 40
_MAX_VALUES = 100_000
_LARGEST = 2**63


def join_key(key: str, part: str | int) -> str:
    """Return the dotted key one level below ``key``.

    >>> join_key("train", "epochs")
    'train.epochs'
    """
    return f"{key}.{part}" if key else str(part)


def show(value: Any, length: int = 60) -> str:
    """Return ``value`` as one short printable line, for error messages."""
    text = repr(_lists(value)).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= length else text[: length - 1] + "…"


def _lists(value: Any) -> Any:
    """Show tuples as the lists that a person wrote."""
    if isinstance(value, list | tuple):
        return [_lists(item) for item in value]
    return {key: _lists(item) for key, item in value.items()} if isinstance(value, dict) else value


def method_as_plain(method: Method) -> dict[str, Any]:
    """Return a method as the mapping that a recipe would hold, every parameter included."""
    values = {
        field.name: as_plain(getattr(method, field.name)) for field in dataclasses.fields(method)
    }
    return {"name": method.name, **values}


def as_plain(value: Any, key: str = "") -> Any:
    """Return a copy of ``value`` that holds plain data only.

    Tuples become lists, paths text, and dataclasses (methods, training settings) mappings.

    Args:
        value: what YAML or Python gave.
        key: the dotted key where it stands, for messages.

    Raises:
        RecipeError: something in it cannot stand in a recipe, with its key.
    """
    return _Converter().convert(value, key, 0)


class _Converter:
    """Counts what it converts, so that aliases cannot blow a small file up."""

    def __init__(self) -> None:
        self.seen = 0

    def convert(self, value: Any, key: str, depth: int) -> Any:
        self.seen += 1
        where = key or "recipe"
        if depth > _MAX_DEPTH or self.seen > _MAX_VALUES:
            raise RecipeError(
                f"{where[:60]}…: nested too deeply or too large for a recipe (limits: {_MAX_DEPTH} "
                f"levels, {_MAX_VALUES} values)"
            )
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return _check_text(value, where)
        if isinstance(value, int | float):
            return _check_number(value, where)
        if isinstance(value, PurePath):
            return str(value)
        if isinstance(value, Method):
            return method_as_plain(value)
        if isinstance(value, MethodSum):
            return [method_as_plain(method) for method in value]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            return self._convert_mapping(value, key, depth)
        if isinstance(value, list | tuple):
            return [self.convert(v, join_key(key, i), depth + 1) for i, v in enumerate(value)]
        raise RecipeError(
            f"{where}: expected text, a number, true, false, null, a list or a mapping, "
            f"got {show(value)} ({type(value).__name__})"
        )

    def _convert_mapping(self, value: Mapping[Any, Any], key: str, depth: int) -> dict[str, Any]:
        for name in value:
            if not isinstance(name, str):
                raise RecipeError(
                    f"{join_key(key, show(name))}: expected a key that is text, got {show(name)} "
                    "(put quotes around it)"
                )
            _check_text(name, join_key(key, show(name)))
        return {
            name: self.convert(item, join_key(key, name), depth + 1) for name, item in value.items()
        }


def _check_text(value: str, key: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RecipeError(
            f"{show(key)}: expected valid text, got {show(value)} (half of a surrogate pair)"
        ) from None
    if "\0" in value:
        raise RecipeError(f"{show(key)}: expected text without NUL, got {show(value)}")
    return value


def _check_number(value: float, key: str) -> float:
    if isinstance(value, int):
        if not -_LARGEST <= value < _LARGEST:
            digits = value.bit_length()
            raise RecipeError(f"{key}: expected a number of at most 63 bits, got {digits} bits")
    elif not math.isfinite(value):
        raise RecipeError(f"{key}: expected a finite number, got {value!r}")
    return value
