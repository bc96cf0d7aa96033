"""Data sets by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from limbeck.errors import LimbeckError, RecipeError, unknown

if TYPE_CHECKING:
    from limbeck.data.bundle import DataBundle

Source = TypeVar("Source", bound="Callable[..., DataBundle]")
_SOURCES: dict[str, Callable[..., DataBundle]] = {}


def register_data(name: str) -> Callable[[Source], Source]:
    """Register a function from options to a DataBundle under a name for recipes.

    Raises:
        RecipeError: the name is taken.
    """

    def register(source: Source) -> Source:
        if name in _SOURCES:
            raise RecipeError(f"data {name!r} is registered twice")
        _SOURCES[name] = source
        return source

    return register


def data_names() -> list[str]:
    """Return the names that ``load_data`` knows."""
    import_module("limbeck.data.sources")
    return sorted(_SOURCES)


def data_options(name: str) -> dict[str, Any]:
    """Return the options of a data set with their defaults (``inspect.Parameter.empty``: must)."""
    from limbeck.data.bundle import COMMON_DEFAULTS

    options: dict[str, Any] = {}
    for key, parameter in inspect.signature(data_source(name)).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            options |= {k: v for k, v in COMMON_DEFAULTS.items() if k not in options}
        else:
            options[key] = parameter.default
    return options


def load_data(name: str, **options: Any) -> DataBundle:
    """Return the data set ``name``, ready for training.

    Args:
        name: one of ``data_names()``.
        **options: those of the source (its docstring) and the common ones: ``validation``,
            ``num_train``, ``imbalance``, ``label_noise``, ``label_fraction``, ``labels_per_class``,
            ``seed``, ``augment``, ``leave_out``.

    Raises:
        RecipeError: an unknown name or option, or a missing option.
        DataError: files missing, damaged or of another form.
    """
    source = data_source(name)
    known = data_options(name)
    for key in options:
        if key not in known:
            raise RecipeError(unknown(f"data option of {name!r}", key, known))
    for key, default in known.items():
        if default is inspect.Parameter.empty and key not in options:
            raise RecipeError(f"data {name!r} needs data.{key}=")
    try:
        return source(**options)
    except LimbeckError as error:
        if str(error).startswith(f"data {name!r}"):
            raise
        raise type(error)(f"data {name!r}: {error}") from error


def data_source(name: str) -> Callable[..., DataBundle]:
    """Return the function behind a data source; RecipeError with the nearest name if none."""
    names = data_names()
    if name not in _SOURCES:
        raise RecipeError(unknown("data", name, names))
    return _SOURCES[name]
