"""Open arguments: the keys that belong to the network, data source or estimator that is named."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Unpack

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from limbeck.errors import nearest
from limbeck.recipe.messages import describe, mistake, unknown, unknown_key

EMPTY = inspect.Parameter.empty


@dataclass(frozen=True)
class Arguments:
    """What can be said to a function from a recipe.

    Attributes:
        defaults: every argument with its default; ``inspect.Parameter.empty`` where it must be
            said.
        types: the annotation of those arguments that have one.
    """

    defaults: Mapping[str, Any]
    types: Mapping[str, Any] = field(default_factory=dict)

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return every argument: as given, or its default, in the function's order."""
        return {key: given.get(key, default) for key, default in self.defaults.items()}

    def check(
        self,
        given: Mapping[str, Any],
        own_keys: Iterable[str],
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        """Refuse unknown arguments, missing ones, and those of a wrong type.

        Args:
            given: what the recipe says, lists as tuples.
            own_keys: keys that the recipe knows beside the arguments, for the nearest name.
            renamed: what arguments of former names are called now.

        Raises:
            ValidationError: at the argument.
        """
        for key, value in given.items():
            if key not in self.defaults:
                raise unknown_key(key, [*own_keys, *self.defaults], value, renamed)
            if key in self.types and value != self.defaults[key]:
                _check_type(key, value, self.types[key])
        for key, default in self.defaults.items():
            if default is EMPTY and key not in given:
                raise mistake("missing", loc=(key,))


def _check_type(key: str, value: Any, kind: Any) -> None:
    try:
        validator = TypeAdapter(kind)
    except PydanticUserError:  # an annotation that pydantic cannot read: building will tell
        return
    try:
        validator.validate_python(value, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False)
        wanted = [describe(details) for details in found if len(details["loc"]) <= 1]
        if len(found) == 1 or not wanted:
            inner = [part for part in found[0]["loc"] if isinstance(part, int)]
            raise mistake(describe(found[0]), found[0]["input"], (key, *inner)) from None
        both = [text.removeprefix("expected ").partition(", got ")[0] for text in wanted]
        got = wanted[0].partition(", got ")[2]
        line = f"expected {' or '.join(dict.fromkeys(both))}, got {got}"
        raise mistake(line, value, (key,)) from None


def gather(value: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Move the keys of a mapping that are not ``known`` under one key, ``arguments``."""
    known = set(known)
    if "arguments" in value:
        raise mistake(
            "unknown key 'arguments': write the arguments themselves, beside the name",
            value["arguments"],
            ("arguments",),
        )
    inner = {key: item for key, item in value.items() if key not in known}
    return {key: item for key, item in value.items() if key in known} | {"arguments": inner}


def is_path(model: str) -> bool:
    """Whether a model's name is the path of a folder."""
    elsewhere = model.startswith(("timm/", "torchvision/", "hf/", "py:"))
    return not elsewhere and ("/" in model or "\\" in model or model.startswith((".", "~")))


def of_model(model: str) -> Arguments | None:
    """Arguments of a network; None where only building it would tell.

    Raises:
        ValidationError: no network has this name.
    """
    from limbeck.models import model_arguments, model_names
    from limbeck.models.registry import ELSEWHERE, model_builder

    if model in model_names():
        return Arguments(model_arguments(model), _annotations(model_builder(model)))
    if model.startswith(("timm/", "torchvision/", "hf/", "py:")) or is_path(model):
        return None
    names = [*model_names(), *ELSEWHERE, "path/to/folder"]
    raise mistake(unknown("model", model, names), model, ("model",))


def of_data(name: str) -> Arguments:
    """Options of a data source.

    Raises:
        ValidationError: no data source has this name.
    """
    from limbeck.data.registry import data_names, data_options, data_source

    if name not in data_names():
        raise mistake(unknown("data source", name, data_names()), name, ("name",))
    return Arguments(data_options(name), _annotations(data_source(name)))


def of_method(kind: type) -> Arguments:
    """Parameters of a method's dataclass."""
    fields = [field for field in dataclasses.fields(kind) if field.init]
    missing = dataclasses.MISSING
    return Arguments(
        {f.name: f.default if f.default_factory is missing else f.default_factory() for f in fields}
    )


def of_estimator(name: str) -> Arguments:
    """Arguments of a scikit-learn estimator.

    Raises:
        ValidationError: there is no classifier or regressor of this name.
    """
    from sklearn.utils import all_estimators

    found = dict(all_estimators(type_filter=["classifier", "regressor"]))
    if name not in found:
        guess = nearest(name, found)
        hint = f"did you mean {guess!r}?" if guess else "expected a classifier or a regressor"
        line = f"unknown estimator {name!r}: {hint} (of {len(found)} in scikit-learn)"
        raise mistake(line, name, ("estimator",))
    parameters = inspect.signature(found[name]).parameters.values()
    return Arguments({p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD})


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of a function's parameters, those of ``**options: Unpack[...]`` included."""
    target = vars(function).get("__init__") if isinstance(function, type) else function
    try:
        hints = typing.get_type_hints(target)
    except NameError:  # imported for type checkers only
        return {}
    for hint in list(hints.values()):
        if typing.get_origin(hint) is Unpack:
            hints |= typing.get_type_hints(typing.get_args(hint)[0])
    return hints
