"""The registry of methods: one word names each."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable
from typing import Any, TypeVar

from limbeck.errors import MethodError, unknown
from limbeck.methods.base import Method

_METHODS: dict[str, type[Method]] = {}
_discovered = False

M = TypeVar("M", bound=type[Method])


def register_method(name: str) -> Callable[[M], M]:
    """Register a frozen dataclass as the method called ``name``.

    Raises:
        MethodError: the name is taken, or the class has no Card.
    """

    def add(cls: M) -> M:
        if name in _METHODS and _METHODS[name].__qualname__ != cls.__qualname__:
            raise MethodError(f"a method called {name!r} exists already: {_METHODS[name]}")
        if not hasattr(cls, "card"):
            raise MethodError(f"method {name!r} ({cls.__name__}) has no card")
        cls.name = name
        _METHODS[name] = cls
        return cls

    return add


def _discover() -> None:
    """Import every method file of this package and every installed plug-in, once."""
    global _discovered
    if _discovered:
        return
    _discovered = True
    package = importlib.import_module("limbeck.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"limbeck.methods.{module.name}")
    for entry in importlib.metadata.entry_points(group="limbeck.methods"):
        entry.load()


def all_methods() -> dict[str, type[Method]]:
    """Every registered method by name, sorted."""
    _discover()
    return dict(sorted(_METHODS.items()))


def get_method(name: str) -> type[Method]:
    """Return the class of the method called ``name``; MethodError with the nearest name if none."""
    methods = all_methods()
    if name not in methods:
        raise MethodError(unknown("method", name, methods))
    return methods[name]


def make_method(name: str, **parameters: Any) -> Method:
    """Build a method from its name and parameters, refusing unknown parameters by name."""
    cls = get_method(name)
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for key in parameters:
        if key not in known:
            raise MethodError("method: " + unknown(f"parameter of {name}", key, known, cls.renamed))
    for key, value in parameters.items():
        if isinstance(value, list):
            parameters[key] = _as_tuple(value)
    return cls(**parameters)


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value
