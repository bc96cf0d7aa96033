"""Sums of methods, and the rules a sum must keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from limbeck.errors import MethodError
from limbeck.methods.base import Method


@dataclass(frozen=True)
class MethodSum:
    """Several methods at once. The leftmost decides the default weight of the task term.

    Raises:
        MethodError: two methods redefine supervision, or two are the same in name and teacher.
    """

    methods: tuple[Method, ...]

    def __post_init__(self) -> None:
        owners = [m.name for m in self.methods if m.card.replaces_task]
        if len(owners) > 1:
            raise MethodError(
                f"method: {' and '.join(owners)} both redefine the task term; keep one of them"
            )
        names = [(m.name, m.teacher) for m in self.methods]
        for name, teacher in names:
            if names.count((name, teacher)) > 1:
                raise MethodError(f"method: {name!r} stands twice with the same teacher")

    def __add__(self, other: Any) -> MethodSum:
        if isinstance(other, Method):
            return MethodSum((*self.methods, other))
        if isinstance(other, MethodSum):
            return MethodSum((*self.methods, *other.methods))
        return NotImplemented

    def __rmul__(self, factor: float) -> MethodSum:
        return MethodSum(tuple(factor * method for method in self.methods))

    __mul__ = __rmul__

    def __iter__(self) -> Iterator[Method]:
        return iter(self.methods)

    def __len__(self) -> int:
        return len(self.methods)


def as_methods(value: Any) -> tuple[Method, ...]:
    """Read a method, a sum, a name or a sequence of these as a checked tuple of methods."""
    from limbeck.methods.registry import make_method

    if isinstance(value, Method):
        return (value,)
    if isinstance(value, MethodSum):
        return value.methods
    if isinstance(value, str):
        return (make_method(value),)
    if isinstance(value, dict):
        return (make_method(**value),)
    if isinstance(value, list | tuple):
        return MethodSum(tuple(m for item in value for m in as_methods(item))).methods
    raise MethodError(
        f"method: expected a method, a name or a list of these, got {type(value).__name__}"
    )


def default_task_weight(methods: tuple[Method, ...]) -> float:
    """Weight of the task term where nobody says another: that of the leftmost method's paper."""
    return methods[0].card.task_weight if methods else 1.0
