"""Mistakes in a recipe, each said in one line: key, value, what was expected, nearest key."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic import Tag, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from limbeck import errors
from limbeck.errors import LimbeckError
from limbeck.recipe.plain import join_key, show

_OWN = "limbeck"
TAGS = frozenset(
    ["[key]", "<one>", "<several>", "<cohort>", "<peers>", "<data>", "<statistics>"]
    + [f"<{kind}>" for kind in ("model", "run", "train", "ensemble", "route", "partial")]
    + [f"<{kind}>" for kind in ("calibrated", "cache", "online", "virtual", "snapshot", "ema")]
    + [f"<{kind}>" for kind in ("sklearn", "onnx", "crossfit")]
)
"""Parts of pydantic's locations that are no keys: which member of a union was meant."""
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "mapping_type": "a mapping (key: value)",
    "dataclass_type": "a mapping (key: value)",
    "dataclass_exact_type": "a mapping (key: value)",
    "sequence_type": "a list",
    "sequence_str": "a list",
    "is_instance_of": "a list",
    "none_required": "null",
}


def unknown(
    kind: str, name: str, choices: Iterable[str], renamed: Mapping[str, str] | None = None
) -> str:
    """Return ``limbeck.errors.unknown`` for a name of any length."""
    return errors.unknown(kind, name if len(name) <= 60 else f"{name[:59]}…", choices, renamed)


def mistake(message: str, value: Any = None, loc: Sequence[str | int] = ()) -> ValidationError:
    """Return an error for a validator to raise; ``loc`` is where, below the validated value."""
    kind = PydanticCustomError(_OWN, "{line}", {"line": message})
    details = InitErrorDetails(type=kind, loc=tuple(loc), input=value)
    return ValidationError.from_exception_data("recipe", [details])


def unknown_key(
    name: str, choices: Iterable[str], value: Any = None, renamed: Mapping[str, str] | None = None
) -> ValidationError:
    """Return the error for a key that is not among ``choices``."""
    return mistake(unknown("key", name, choices, renamed), value, (name,))


def expected(
    what: str, value: Any, hint: str = "", *, loc: Sequence[str | int] = ()
) -> ValidationError:
    """Return the error "expected <what>, got <value><hint>"."""
    return mistake(f"expected {what}, got {show(value)}{hint or _hint(what, value)}", value, loc)


def mistakes_in(error: ValidationError, root: type) -> list[tuple[str, str]]:
    """Return (dotted key, message) for every mistake, unknown keys first, then as in the schema.

    Args:
        error: what pydantic found.
        root: the dataclass that was validated, for the names of known keys.
    """
    found = [_one(details, root) for details in error.errors(include_url=False)]
    order = sorted(range(len(found)), key=lambda i: (not _is_unknown(found[i][1]), i))
    return [found[i] for i in order]


def summarise(mistakes: Sequence[tuple[str, str]]) -> str:
    """Return one line: the first mistake, and the keys of the others."""
    key, message = mistakes[0]
    line = f"{key}: {message}" if key else message
    if len(mistakes) > 1:
        others = ", ".join(dict.fromkeys(key for key, _ in mistakes[1:4]))
        more = ", …" if len(mistakes) > 4 else ""
        line += f" (and {len(mistakes) - 1} more: {others}{more})"
    return line


def _is_unknown(message: str) -> bool:
    return message.startswith("unknown key")


def _one(details: Mapping[str, Any], root: type) -> tuple[str, str]:
    loc: tuple[str | int, ...] = details["loc"]
    parts = [part for part in loc[:-1] if part not in TAGS]
    if loc and (loc[-1] not in TAGS or details["type"] == "unexpected_keyword_argument"):
        parts.append(loc[-1])
    key = ""
    for part in parts:
        key = join_key(key, part)
    if details["type"] == "unexpected_keyword_argument":
        line = _unknown_key(key, str(parts[-1]), _type_at(root, loc[:-1]))
        return key, line if "did you mean" in line else _misplaced(loc, root) or line
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, LimbeckError):
        return _from_range_check(key, str(cause))
    return key, describe(details)


def describe(details: Mapping[str, Any]) -> str:
    """Return what pydantic's error details say, as "expected …, got …"."""
    kind, value, context = details["type"], details.get("input"), details.get("ctx", {})
    if kind == _OWN:
        return str(context["line"])
    if kind == "missing":
        return "missing"
    if kind == "literal_error":
        return _literal(context["expected"], value)
    what = _EXPECTED.get(kind)
    if kind in ("too_long", "too_short"):
        most = kind == "too_long"
        what = f"at {'most' if most else 'least'} {context['max_length' if most else 'min_length']}"
        what += " entries"
    if what is not None:
        hint = _hint(what, value)
        if isinstance(value, str) and context.get("class_name") in ("Optimizer", "Schedule"):
            hint = f" (write {{name: {value}}})"
        return f"expected {what}, got {show(value)}{hint}"
    text = details["msg"].removeprefix("Value error, ")
    return f"{' '.join(text.split())}, got {show(value)}"


def _literal(choices_text: str, value: Any) -> str:
    choices = re.findall(r"'([^']*)'", choices_text)
    if isinstance(value, str) and choices:
        return unknown("choice", value, choices)
    return f"expected {choices_text}, got {show(value)}"


def _from_range_check(key: str, message: str) -> tuple[str, str]:
    """Give a range check's line ("train.optimizer.lr: expected …") the key where it stands."""
    match = re.match(r"^[\w.]*?(\w+): (expected .*)$", message, re.DOTALL)
    if match is None:
        return key, message
    return join_key(key, match[1]), match[2]


def _hint(what: str, value: Any) -> str:
    if "number" in what and isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return ""
        return " (this is text: remove the quotes)"
    return ""


def _misplaced(loc: Sequence[str | int], root: type) -> str | None:
    """Say where a key belongs that was written too deep; None where nothing above has it.

    The document itself is left out: its keys are many, and rarely meant from within.
    """
    name = str(loc[-1])
    for cut in range(len(loc) - 2, 0, -1):
        if name in _fields(_type_at(root, loc[:cut])):
            key = ""
            for part in [*(part for part in loc[:cut] if part not in TAGS), name]:
                key = join_key(key, part)
            return f"unknown key {name!r}: did you mean {key}, further out?"
    return None


def _unknown_key(key: str, name: str, kind: Any) -> str:
    """Say that ``kind`` has no key ``name``, and where there is one of this name."""
    holder = key.rpartition(".")[0]
    for field in _fields(kind):
        inner = _plain_type(typing.get_type_hints(kind, include_extras=True)[field])
        if name in _fields(inner):
            return f"unknown key {name!r}: did you mean {join_key(holder, field)}.{name}?"
    return unknown("key", name, _fields(kind))


def _fields(kind: Any) -> list[str]:
    """Names of the keys of a dataclass; none of another type."""
    if not dataclasses.is_dataclass(kind):
        return []
    return [field.name for field in dataclasses.fields(kind)]


def _type_at(kind: Any, loc: Sequence[str | int]) -> Any:
    """Return what the schema expects at ``loc``."""
    for part in loc:
        kind = _step(kind, part)
    return _plain_type(kind)


def _step(kind: Any, part: str | int) -> Any:
    if isinstance(part, str) and part in TAGS:
        return _tagged(kind, part)
    kind = _plain_type(kind)
    if dataclasses.is_dataclass(kind):
        assert isinstance(kind, type)
        return typing.get_type_hints(kind, include_extras=True).get(str(part))
    arguments = get_args(kind)
    if not arguments:
        return None
    origin = get_origin(kind)
    is_mapping = isinstance(origin, type) and issubclass(origin, Mapping)
    return arguments[1] if is_mapping else arguments[0]


def _plain_type(kind: Any) -> Any:
    """Take ``Annotated`` and ``| None`` off a type."""
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif get_origin(kind) in (typing.Union, types.UnionType):
            kind = next(option for option in get_args(kind) if option is not type(None))
        else:
            return kind


def _tagged(kind: Any, tag: str) -> Any:
    """Return the member of a (possibly annotated, optional) union that carries ``tag``."""
    if get_origin(kind) is Annotated:
        inner, *extras = get_args(kind)
        if any(isinstance(extra, Tag) and extra.tag == tag for extra in extras):
            return inner
        return _tagged(inner, tag)
    if get_origin(kind) in (typing.Union, types.UnionType):
        found = (_tagged(option, tag) for option in get_args(kind))
        return next((option for option in found if option is not None), None)
    return None
