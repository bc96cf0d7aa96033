"""JSON schema of recipes, for editors that complete and check YAML while one writes."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from limbeck.methods.base import Method
from limbeck.methods.registry import all_methods
from limbeck.recipe.validation import adapter

_ADDRESS = "https://json-schema.org/draft/2020-12/schema"
_BY_NAME_ALONE = ("Data", "StudentModel", "Sklearn", "Codec")
"""Mappings for which their name alone may stand."""


class _Generator(GenerateJsonSchema):
    """Leaves a mark where a validator of ours decides, to be filled in below."""

    def function_plain_schema(
        self, schema: core_schema.PlainValidatorFunctionSchema
    ) -> dict[str, Any]:
        function = schema["function"]["function"]
        return {"$validator": getattr(function, "__name__", "")}


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe as a person writes it, short forms included."""
    document = adapter().json_schema(schema_generator=_Generator, ref_template="#/$defs/{model}")
    definitions = document.setdefault("$defs", {})
    _open_arguments(document, definitions)
    _short_forms(definitions)
    names = []
    for name, kind in all_methods().items():
        definitions[f"method_{name}"] = _method(name, kind, definitions)
        names.append(name)
    definitions["Method"] = {
        "anyOf": [{"enum": names}, *({"$ref": f"#/$defs/method_{name}"} for name in names)]
    }
    filled = _fill_marks(document)
    filled.pop("title", None)
    return {"$schema": _ADDRESS, "title": "Limbeck recipe", **filled}


def _method(name: str, kind: type[Method], definitions: dict[str, Any]) -> dict[str, Any]:
    schema = TypeAdapter(kind).json_schema()
    definitions |= schema.get("$defs", {})
    properties = {"name": {"const": name}, **schema.get("properties", {})}
    return {
        "type": "object",
        "title": kind.card.title,
        "description": kind.card.equation,
        "properties": properties,
        "required": ["name", *schema.get("required", ())],
        "additionalProperties": False,
    }


def _open_arguments(document: dict[str, Any], definitions: dict[str, Any]) -> None:
    """Open the mappings whose further keys belong to what they name; close all others."""
    for schema in [document, *definitions.values()]:
        if schema.get("type") != "object":
            continue
        has_arguments = schema.get("properties", {}).pop("arguments", None) is not None
        schema["additionalProperties"] = has_arguments


def _short_forms(definitions: dict[str, Any]) -> None:
    for name in _BY_NAME_ALONE:
        if name in definitions:
            definitions[name] = {"anyOf": [{"type": "string"}, definitions[name]]}
    trained = definitions["TrainTeacher"]["properties"]
    trained["train"] = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Recipe"}]}
    trained["overrides"] = {"type": "object"}
    recipe = definitions["Recipe"]
    recipe["required"] = ["student", "method"]  # name and data are taken from file and parent


def _fill_marks(value: Any) -> Any:
    if isinstance(value, list):
        return [_fill_marks(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("$validator") == "method":
        return {"$ref": "#/$defs/Method"}
    if value.get("$validator") == "budget":
        size = [{"type": "integer", "minimum": 1}, {"type": "string"}, {"type": "null"}]
        return {"anyOf": size, **{k: v for k, v in value.items() if k != "$validator"}}
    if value.get("$validator") == "temperature":
        number = {"type": "number", "exclusiveMinimum": 0}
        rest = {key: item for key, item in value.items() if key != "$validator"}
        return {"anyOf": [{"enum": ["auto-nll", "auto-ace"]}, number], **rest}
    return {key: _fill_marks(item) for key, item in value.items()}
