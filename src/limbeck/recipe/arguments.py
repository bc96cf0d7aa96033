"""Open arguments: the keys that belong to the network, data source or estimator that is named."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from limbeck.errors import nearest, unknown
from limbeck.recipe.messages import expected, mistake, unknown_key

Defaults = Mapping[str, Any]
EMPTY = inspect.Parameter.empty


def gather(value: Any, known: Iterable[str]) -> Any:
    """Move the keys of a mapping that are not ``known`` under one key, ``arguments``."""
    if not isinstance(value, Mapping):
        return value
    known = set(known) - {"arguments"}
    if "arguments" in value:
        raise mistake(
            "unknown key 'arguments': write the arguments themselves, beside the name",
            value["arguments"],
            ("arguments",),
        )
    inner = {key: item for key, item in value.items() if key not in known}
    return {key: item for key, item in value.items() if key in known} | {"arguments": inner}


def field_names(kind: type) -> list[str]:
    """Names of a dataclass's own keys, without ``arguments``."""
    return [field.name for field in dataclasses.fields(kind) if field.name != "arguments"]


def with_defaults(arguments: Mapping[str, Any], defaults: Defaults) -> dict[str, Any]:
    """Return every argument there is: as given, or its default; in the order of ``defaults``."""
    complete = {key: arguments.get(key, default) for key, default in defaults.items()}
    return complete | {key: item for key, item in arguments.items() if key not in defaults}


def as_given(value: Any) -> Any:
    """Turn the tuples of defaults into lists, as YAML has them."""
    if isinstance(value, list | tuple):
        return [as_given(item) for item in value]
    if isinstance(value, Mapping):
        return {key: as_given(item) for key, item in value.items()}
    return value


def check_arguments(
    arguments: Mapping[str, Any], defaults: Defaults, own_keys: Iterable[str]
) -> None:
    """Refuse unknown arguments, missing ones, and those of another kind than their default.

    Args:
        arguments: what the recipe says.
        defaults: what can be said, with the defaults; None as a default allows anything, and
            ``inspect.Parameter.empty`` means that it must be said.
        own_keys: keys that the recipe knows beside the arguments, for the nearest name.

    Raises:
        ValidationError: at the argument.
    """
    for key, value in arguments.items():
        if key not in defaults:
            raise unknown_key(key, [*own_keys, *defaults], value)
        what = _expectation(defaults[key], value)
        if what:
            raise expected(what, value, (key,))
    for key, default in defaults.items():
        if default is EMPTY and key not in arguments:
            raise mistake("missing", loc=(key,))


def _expectation(default: Any, value: Any) -> str:
    """Say what is expected where ``value`` is not of the kind of ``default``; "" where it is."""
    if default is None or default is EMPTY or _same_kind(default, value):
        return ""
    if isinstance(default, bool):
        return "true or false"
    if isinstance(default, int):
        return "a whole number"
    if isinstance(default, float):
        return "a number"
    if isinstance(default, str):
        return "text"
    return "a list" if isinstance(default, list | tuple) else "a mapping (key: value)"


def _same_kind(default: Any, value: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    if isinstance(default, list | tuple):
        return isinstance(value, list | tuple)
    if isinstance(default, int | str):
        return isinstance(value, type(default))
    return not isinstance(default, Mapping) or isinstance(value, Mapping)


def is_path(model: str) -> bool:
    """Whether a model's name is the path of a folder."""
    elsewhere = model.startswith(("timm/", "hf/", "py:"))
    return not elsewhere and ("/" in model or "\\" in model or model.startswith((".", "~")))


def model_defaults(model: str) -> dict[str, Any] | None:
    """Arguments of a network with their defaults; None where only building it would tell.

    Raises:
        ValidationError: no network has this name.
    """
    from limbeck.models import model_arguments, model_names

    if model in model_names():
        return dict(model_arguments(model))
    if model.startswith(("timm/", "py:")) or is_path(model):
        return None
    names = [*model_names(), "timm/<id>", "py:module:function", "path/to/folder"]
    raise mistake(unknown("model", model, names), model, ("model",))


def data_defaults(name: str) -> dict[str, Any] | None:
    """Options of a data source with their defaults.

    Raises:
        ValidationError: no data source has this name.
    """
    from limbeck.data.registry import data_names, data_options

    if name not in data_names():
        raise mistake(unknown("data source", name, data_names()), name, ("name",))
    return dict(data_options(name))


def method_defaults(kind: type) -> dict[str, Any]:
    """Parameters of a method's dataclass with their defaults."""
    return {
        field.name: field.default if field.default_factory is dataclasses.MISSING
        else field.default_factory()
        for field in dataclasses.fields(kind)
        if field.init
    }


def estimator_class(name: str) -> type[Any]:
    """Return the scikit-learn class of this name that gives probabilities (or regresses).

    Raises:
        ValidationError: there is none.
    """
    from sklearn.utils import all_estimators

    found = dict(all_estimators(type_filter=["classifier", "regressor"]))
    if name not in found:
        guess = nearest(name, found)
        hint = f"did you mean {guess!r}?" if guess else "expected a classifier or a regressor"
        line = f"unknown estimator {name!r}: {hint} (of {len(found)} in scikit-learn)"
        raise mistake(line, name, ("estimator",))
    return found[name]


def estimator_defaults(name: str) -> dict[str, Any]:
    """Arguments of a scikit-learn estimator with their defaults."""
    parameters = inspect.signature(estimator_class(name)).parameters.values()
    return {p.name: None if p.default is p.empty else p.default for p in parameters}
