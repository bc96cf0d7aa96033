"""Nesting: which forms of teacher hold other teachers, and under which keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

HOLDS_ONE = ("calibrated", "cache", "crossfit", "partial")
"""Forms whose key holds one teacher."""
HOLDS_SEVERAL = ("ensemble", "route")
"""Forms whose key holds a list of teachers."""


def inside(teacher: Any) -> Iterator[tuple[str, Any]]:
    """Yield (key, teacher) of the teachers that a teacher holds, but not those of a recipe in it.

    Args:
        teacher: plain data or a form of the schema; what is malformed holds none.
    """
    for key in HOLDS_ONE:
        found = _get(teacher, key)
        if found is not None:
            yield key, found
    for key in HOLDS_SEVERAL:
        found = _get(teacher, key)
        for position, member in enumerate(found if isinstance(found, list | tuple) else ()):
            yield f"{key}.{position}", member


def with_inside(teacher: Mapping[str, Any], change: Callable[[str, Any], Any]) -> dict[str, Any]:
    """Return plain data of a teacher, ``change(key, teacher)`` in place of each that it holds."""
    found = dict(teacher)
    for key in HOLDS_ONE:
        if key in found:
            found[key] = change(key, found[key])
    for key in HOLDS_SEVERAL:
        if isinstance(found.get(key), list):
            found[key] = [change(f"{key}.{i}", one) for i, one in enumerate(found[key])]
    return found


def _get(teacher: Any, key: str) -> Any:
    return teacher.get(key) if isinstance(teacher, Mapping) else getattr(teacher, key, None)
