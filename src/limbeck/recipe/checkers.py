"""Validators of the schema's fields. Each raises one mistake, at the key where it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, TypeAdapter

from limbeck.errors import LimbeckError, RecipeError, nearest
from limbeck.methods.base import Method
from limbeck.methods.registry import all_methods
from limbeck.models.shared_widths import check_shares
from limbeck.recipe import arguments as open_arguments
from limbeck.recipe.messages import expected, mistake, unknown, unknown_key
from limbeck.recipe.plain import show
from limbeck.teachers.cache.budget import as_bytes
from limbeck.teachers.route import check_moments

T = TypeVar("T")

TEACHER_KINDS = (
    "model",
    "run",
    "train",
    "ensemble",
    "route",
    "partial",
    "crossfit",
    "calibrated",
    "cache",
    "online",
    "virtual",
    "snapshot",
    "ema",
    "sklearn",
    "onnx",
)
_MODEL_TEACHER_KEYS = ("model", "weights", "normalize")
_BESIDE_KINDS = (
    *("weights", "normalize", "overrides", "epoch", "merge", "at", "folds", "seed"),
    *("shares", "epochs", "lr"),
)
"""Keys that stand beside a kind of teacher: none of them is a kind that was misspelt."""
_adapters: dict[type[Method], TypeAdapter[Method]] = {}


# Ranges. RecipeError's "key: expected …" is given the full key by ``messages``.


def _require(holds: bool, key: str, value: Any, what: str) -> None:
    if not holds:
        raise RecipeError(f"{key}: expected {what}, got {show(value)}")


def at_least(bound: float, key: str, value: float | None) -> None:
    """Refuse a number below ``bound``; None passes."""
    _require(value is None or value >= bound, key, value, f"a number of at least {bound}")


def at_most(bound: float, key: str, value: float | None, what: str) -> None:
    """Refuse a number above ``bound``, which is ``what``; None passes."""
    _require(value is None or value <= bound, key, value, f"at most {bound}, {what}")


def above(bound: float, key: str, value: float) -> None:
    """Refuse a number of ``bound`` or less."""
    _require(value > bound, key, value, f"a number above {bound}")


def below(bound: float, key: str, value: float) -> None:
    """Refuse a number of ``bound`` or more."""
    _require(value < bound, key, value, f"a number below {bound}")


def between(low: float, high: float, key: str, value: float) -> None:
    """Refuse a number outside of the open interval."""
    _require(low < value < high, key, value, f"a number in ({low}, {high})")


def seed(key: str, value: int) -> None:
    """Refuse what torch cannot take as a seed."""
    _require(0 <= value < 2**63, key, value, "a whole number from 0 to 2**63 - 1")


def channel_statistics(mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse statistics of differing lengths, or a deviation that is not above 0."""
    _require(len(mean) > 0, "mean", list(mean), "one number for each channel")
    _require(len(std) == len(mean), "std", list(std), f"{len(mean)} numbers, as in mean")
    _require(min(std) > 0, "std", list(std), "numbers above 0")


def ensemble_weights(num_members: int, weights: Sequence[float] | None) -> None:
    """Refuse weights that do not fit the members."""
    if weights is None:
        return
    what = f"{num_members} numbers, one for each teacher"
    _require(len(weights) == num_members, "weights", list(weights), what)
    good = min(weights) >= 0 and sum(weights) > 0
    _require(good, "weights", list(weights), "numbers of at least 0, not all 0")


def moments(num_teachers: int, at: Sequence[float] | None) -> None:
    """Refuse moments at which teachers on a route cannot take over from each other."""
    wrong = "" if at is None else check_moments(num_teachers, at)
    if at is not None and wrong:
        raise RecipeError(f"at: {wrong}, got {show(list(at))}")


def shares(values: Sequence[float]) -> None:
    """Refuse shares of a network's channels that do not rise to the whole."""
    wrong = check_shares(values)
    if wrong:
        raise RecipeError(f"shares: {wrong}, got {show(list(values))}")


def one_scaling(scaling: str, temperature: float | str, penalty: float) -> None:
    """Refuse a temperature beside another scaling, and a penalty where nothing is penalised."""
    if scaling == "temperature":
        _require(penalty == 0, "penalty", penalty, "0 beside one temperature (vector, matrix: any)")
    else:
        what = f"auto-nll, for {scaling} scaling is fitted by likelihood"
        _require(temperature == "auto-nll", "temperature", temperature, what)


# Single values.


def freeze(value: Any) -> Any:
    """Turn lists into tuples, at every depth.

    Strict validation wants tuples for tuples once a validator of ours has looked at a value; only
    what comes straight from JSON may be a list.
    """
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    if isinstance(value, Mapping):
        return {key: freeze(item) for key, item in value.items()}
    return value


Arguments = Annotated[Mapping[str, Any], AfterValidator(freeze)]
"""Open arguments, written in a recipe beside the name of what they belong to."""


def not_empty(value: tuple[T, ...]) -> tuple[T, ...]:
    """Refuse an empty list."""
    if not value:
        raise expected("at least one entry", [])
    return value


def at_least_two(value: tuple[T, ...]) -> tuple[T, ...]:
    """Refuse a list of fewer than two."""
    if len(value) < 2:
        raise expected("at least two entries", list(value))
    return value


def version(value: int) -> int:
    """Refuse recipe formats that this Limbeck does not know."""
    if value != 1:
        newer = "; the recipe is newer than this Limbeck: upgrade it" if value > 1 else ""
        raise mistake(f"expected 1, got {value}{newer}", value)
    return value


def run_name(value: str) -> str:
    """Refuse names that could not be a folder's."""
    if not re.fullmatch(r"\w[\w.+ -]{0,99}", value):
        raise expected("letters, digits, '.', '_', '+', '-' or spaces, at most 100", value)
    return value


def teacher_name(value: str) -> str:
    """Refuse names of teachers that could not be written in a dotted key."""
    if not re.fullmatch(r"[^\W\d][\w-]{0,49}", value):
        raise expected("a name of letters, digits, '_' and '-', beginning with a letter", value)
    return value


def temperature(value: Any) -> float | str:
    """Read a temperature: a number above 0, or how to fit one."""
    choices = ("auto-nll", "auto-ace")
    if isinstance(value, str) and value in choices:
        return value
    if isinstance(value, str):
        raise mistake(unknown("temperature", value, [*choices, "a number above 0"]), value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise expected("a number above 0, 'auto-nll' or 'auto-ace'", value)
    return float(value)


def normalize_form(value: Any) -> Any:
    """Refuse what cannot be a teacher's statistics."""
    if isinstance(value, str) and value != "data":
        raise mistake(unknown("normalize", value, ["data", "{mean: [...], std: [...]}"]), value)
    if not isinstance(value, str | Mapping):
        raise expected("a mapping (mean: [...], std: [...]) or data", value)
    return freeze(value)


def normalize_kind(value: Any) -> str:
    """Return the tag of a form of statistics."""
    return "<data>" if isinstance(value, str) else "<statistics>"


def codec_form(value: Any) -> Any:
    """Read a codec: its name, or a mapping."""
    return {"name": value} if isinstance(value, str) else value


def budget(value: Any) -> int | str | None:
    """Read a size on disk: bytes, or text such as "2GB"."""
    try:
        as_bytes(value)
    except LimbeckError:
        raise expected("bytes or a size such as '2GB'", value) from None
    size: int | str | None = value
    return size


def one_way_to_name_teachers(teacher: Any, teachers: Mapping[str, Any]) -> None:
    """Refuse ``teacher`` beside ``teachers``."""
    if teacher is not None and teachers:
        raise RecipeError("teachers: expected either teacher or teachers, got both")


# Which member of a union a value is.


def teacher_kind(value: Any) -> str:
    """Return the tag of a teacher's form; ``teacher_form`` has looked at it before."""
    return "<peers>" if isinstance(value, str) else f"<{_kinds_in(value)[0]}>"


def _kinds_in(value: Mapping[str, Any]) -> list[str]:
    return [kind for kind in TEACHER_KINDS if kind in value]


def teacher_form(value: Any) -> Any:
    """Refuse what is no form of teacher at all, or two at once."""
    if isinstance(value, str):
        if value != "peers":
            hint = ": did you mean 'peers'?" if nearest(value, ["peers"]) else ""
            raise expected(
                "a mapping (such as {model: resnet56, weights: …}) or peers", value, hint
            )
        return value
    forms = f"a mapping with one of {', '.join(TEACHER_KINDS)}; or peers"
    if not isinstance(value, Mapping) or not value:
        raise expected(forms, value)
    kinds = _kinds_in(value)
    if not kinds:
        for name, item in value.items():
            if name not in _BESIDE_KINDS and nearest(name, TEACHER_KINDS):
                raise unknown_key(name, TEACHER_KINDS, item)
        raise mistake(f"expected {forms}; got the keys {', '.join(map(show, value))}", value)
    if len(kinds) > 1:
        raise mistake(f"expected one kind of teacher, got {' and '.join(kinds)}", value)
    return freeze(value)


def student_form(value: Any) -> Any:
    """Refuse what is no form of student at all."""
    if not isinstance(value, str | Mapping | list | tuple):
        raise expected("a model's name, a mapping with 'model', or a list of these", value)
    return freeze(value)


def student_kind(value: Any) -> str:
    """Return the tag of a student's form."""
    if isinstance(value, Mapping) and "models" in value:
        return "<cohort>"
    return "<several>" if isinstance(value, tuple) else "<one>"


def method_form(value: Any) -> Any:
    """Refuse what is no form of method at all."""
    if not isinstance(value, str | Mapping | list | tuple):
        raise expected("a method's name, a mapping with 'name', or a list of these", value)
    return freeze(value)


def method_kind(value: Any) -> str:
    """Return the tag of a method's form."""
    return "<several>" if isinstance(value, tuple) else "<one>"


# Mappings with open arguments.


def model_arguments(value: Any) -> Any:
    """Read a network: a name, or a mapping with the network's own arguments beside it."""
    return _model(value, ("model",), ("model", "models", "deploy"))


def teacher_arguments(value: Any) -> Any:
    """Read a teacher's network."""
    gathered = _model(value, _MODEL_TEACHER_KEYS, _MODEL_TEACHER_KEYS)
    model = gathered.get("model")
    if isinstance(model, str) and gathered.get("weights") is None:
        from limbeck.models import model_names
        from limbeck.models.hf import needs_weights
        from limbeck.models.io import BRINGS_WEIGHTS

        pretrained = ""
        if model.startswith("timm/"):
            pretrained = "pretrained: true, "
        elif model.startswith("torchvision/"):
            pretrained = "DEFAULT (torchvision's own), "
        own = model.startswith(BRINGS_WEIGHTS) and not gathered["arguments"].get("pretrained")
        own = own or (model.startswith("hf/") and needs_weights(model))
        if model in model_names() or own:
            raise mistake(
                f"missing: {model} would have learned nothing; give {pretrained}a safetensors "
                "file, a {train: recipe}, or weights: random if that is what you want",
                loc=("weights",),
            )
    return gathered


def _model(value: Any, known: Sequence[str], choices: Sequence[str]) -> Any:
    return _named(value, "model", known, choices, open_arguments.of_model)


def data_arguments(value: Any) -> Any:
    """Read data: a source's name, or a mapping with the source's options beside it."""
    return _named(value, "name", ("name",), ("name",), open_arguments.of_data)


def probe_arguments(value: Any) -> Any:
    """Read data that may be left out."""
    return None if value is None else data_arguments(value)


def sklearn_arguments(value: Any) -> Any:
    """Read an estimator: a class's name, or a mapping with its arguments beside it."""
    keys = ("estimator",)
    look_up = open_arguments.of_estimator
    # Defaults are left to scikit-learn: some are objects, some ask not to be given.
    return _named(value, "estimator", keys, keys, look_up, complete=False)


def _named(
    value: Any,
    key: str,
    known: Sequence[str],
    choices: Sequence[str],
    look_up: Callable[[str], open_arguments.Arguments | None],
    complete: bool = True,
) -> Any:
    """Read a name, or a mapping of ``key``, other ``known`` keys and open arguments.

    Args:
        value: what the recipe says.
        key: the key of the name.
        known: the keys that are no arguments.
        choices: the keys to offer where ``key`` is missing and another looks like it.
        look_up: gives the arguments that go with a name.
        complete: whether defaults are filled in.
    """
    if isinstance(value, str):
        value = {key: value}
    if not isinstance(value, Mapping):
        raise expected(f"a name or a mapping with {key!r}", value)
    gathered = open_arguments.gather(freeze(value), known)
    _no_typo_of(key, gathered, choices)
    if isinstance(gathered.get(key), str):
        possible = look_up(gathered[key])
        if possible is not None:
            possible.check(gathered["arguments"], known)
            if complete:
                gathered["arguments"] = possible.complete(gathered["arguments"])
    return gathered


def _no_typo_of(key: str, gathered: Mapping[str, Any], choices: Sequence[str]) -> None:
    """Where ``key`` is missing, say so, and which of the keys that are there looks like it."""
    if key in gathered:
        return
    others = {name: item for name, item in gathered["arguments"].items() if name not in choices}
    there = ", ".join(show(name) for name in gathered["arguments"]) or "none"
    for choice in choices:
        typo = nearest(choice, others)
        if typo is not None:
            line = f"unknown key {show(typo)}: did you mean {choice!r}? (the keys here: {there})"
            raise mistake(line, others[typo], (typo,))
    raise mistake(f"missing (the keys here: {there})", loc=(key,))


# Methods.


def method(value: Any) -> Method:
    """Read a method: its name, or a mapping of its name and parameters."""
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        raise expected("a method's name or a mapping with 'name'", value)
    if "name" not in value:
        _no_typo_of("name", {"arguments": value}, ("name",))
    name = value["name"]
    if not isinstance(name, str):
        raise expected("text", name, loc=("name",))
    if name not in all_methods():
        raise mistake(unknown("method", name, all_methods()), name, ("name",))
    kind = all_methods()[name]
    given = {key: item for key, item in value.items() if key != "name"}
    open_arguments.of_method(kind).check(given, ["name"], kind.renamed)
    return _build_method(kind, given)


def _build_method(kind: type[Method], given: Mapping[str, Any]) -> Method:
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    try:
        return _adapters[kind].validate_json(json.dumps(given), strict=True)
    except LimbeckError as error:  # pydantic passes on what is no ValueError
        raise mistake(str(error), given) from None
