"""Dotted overrides: ``train.epochs=5`` on the command line, ``{"train.epochs": 5}`` in Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from limbeck.errors import RecipeError, unknown
from limbeck.recipe.plain import as_plain, join_key, show
from limbeck.recipe.yaml_text import parse_yaml

_MODELS = ("student", "models", "online")
_SHORT_FORMS = {
    "method": "name",
    "data": "name",
    "probe": "name",
    **dict.fromkeys(_MODELS, "model"),
}
"""What a plain text stands for, by the key that it is the value of."""

Overrides = Iterable[str] | Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Override:
    """One change: a dotted key and its new value."""

    key: str
    value: Any

    def __str__(self) -> str:
        return f"{self.key}={show(self.value)}"


def read_overrides(overrides: Overrides) -> list[Override]:
    """Read overrides in their order.

    Args:
        overrides: texts ``a.b.c=value``, the value written as in YAML; or a mapping of dotted
            keys to values.

    Raises:
        RecipeError: a text without "=", or a value that is not YAML.
    """
    if isinstance(overrides, Mapping):
        return [Override(str(key), as_plain(item, str(key))) for key, item in overrides.items()]
    return [_read(text) for text in overrides]


def _read(text: str) -> Override:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise RecipeError(f"override {show(text)}: expected key=value, for example train.epochs=5")
    if any(not part for part in key.split(".")):
        raise RecipeError(f"override {show(text)}: expected a dotted key, got {show(key)}")
    return Override(key, as_plain(parse_yaml(value, f"override {key}"), key))


def apply_override(document: dict[str, Any], override: Override) -> None:
    """Change ``document`` in place.

    Short forms are written out on the way (``method: kd`` takes ``method.temperature=2``), and an
    entry of a list is found by its position or its name (``method.0``, ``method.kd``); where there
    is one entry only, it need not be said. Unknown keys are left for validation to find.

    Raises:
        RecipeError: the way leads through a value that has no keys, or past a list's end.
    """
    parts = override.key.split(".")
    holder: Any = document
    part: Any
    name, trail = "", ""
    while parts:
        part = parts.pop(0)
        if isinstance(holder, list):
            position, consumed = _position(holder, str(part), trail, override)
            if not consumed:
                parts.insert(0, str(part))
            part = position
        elif isinstance(holder, dict):
            name = str(part)
        else:
            line = f"override {override}: {trail} is {show(holder)}, which has no key {part!r}"
            raise RecipeError(line)
        trail = join_key(trail, part)
        if not parts:
            holder[part] = override.value
            return
        is_list = isinstance(holder, list)
        found = holder[part] if is_list else holder.get(part)
        holder[part] = _written_out(found, name, parts[0], is_list)
        holder = holder[part]


def _written_out(value: Any, name: str, following: str, is_entry: bool) -> Any:
    """Return ``value`` in the long form that can be changed at ``following``."""
    if value is None:
        return {}
    if isinstance(value, str) and name in _SHORT_FORMS:
        value = {_SHORT_FORMS[name]: value}
    wants_entry = following.isdigit() and name in ("method", "student") and not is_entry
    if isinstance(value, dict) and wants_entry and "models" not in value:
        return [value]
    return value


def _position(entries: list[Any], part: str, trail: str, override: Override) -> tuple[int, bool]:
    """Return which entry is meant, and whether ``part`` was its position or name."""
    names = [_entry_name(entry) for entry in entries]
    if part.isdecimal() and len(part) < 6:
        if int(part) >= len(entries):
            what = f"{trail} has {len(entries)} entries, numbered from 0"
            raise RecipeError(f"override {override}: {what}")
        return int(part), True
    if names.count(part) == 1:
        return names.index(part), True
    if len(entries) == 1:
        return 0, False
    known = [name for name in names if name]
    if not known:
        raise RecipeError(f"override {override}: {trail} is a list: say which entry, {trail}.0")
    raise RecipeError(f"override {override}: " + unknown(f"entry of {trail}", part, known))


def _entry_name(entry: Any) -> str:
    if isinstance(entry, Mapping):
        entry = entry.get("name", entry.get("model"))
    return entry if isinstance(entry, str) else ""
