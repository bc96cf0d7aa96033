"""The JSON schema, read by a small interpreter of our own: it takes what the loader takes."""

import copy
import json
from typing import Any

import pytest
from good_recipes import GOOD, SHIPPED

from limbeck.methods import all_methods
from limbeck.recipe import json_schema, load_recipe, resolved
from limbeck.recipe.yaml_text import parse_yaml

SCHEMA = json_schema()
KINDS = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
}


def _fits(value: Any, schema: Any) -> bool:
    if "$ref" in schema:
        target: Any = SCHEMA
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        if not _fits(value, target):
            return False
    if "anyOf" in schema and not any(_fits(value, one) for one in schema["anyOf"]):
        return False
    if "oneOf" in schema and sum(_fits(value, one) for one in schema["oneOf"]) != 1:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    return _is_kind(value, schema.get("type")) and _inside(value, schema)


def _is_kind(value: Any, kind: str | None) -> bool:
    if kind in ("integer", "number"):
        numbers = int if kind == "integer" else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool)
    return kind is None or isinstance(value, KINDS[kind])


def _inside(value: Any, schema: Any) -> bool:
    if isinstance(value, dict) and schema.get("type") == "object":
        known = schema.get("properties", {})
        others = schema.get("additionalProperties", True)
        if any(name not in value for name in schema.get("required", ())):
            return False
        if others is False and set(value) - set(known):
            return False
        inner = others if isinstance(others, dict) else {}
        return all(_fits(item, known.get(name, inner)) for name, item in value.items())
    if isinstance(value, list) and schema.get("type") == "array":
        first = schema.get("prefixItems", [])
        if len(value) < schema.get("minItems", 0) or len(value) > schema.get("maxItems", 10**6):
            return False
        schemas = [*first, *[schema.get("items", {})] * (len(value) - len(first))]
        return all(_fits(item, one) for item, one in zip(value, schemas, strict=False))
    return True


@pytest.mark.parametrize("name", GOOD)
def test_it_takes_good_recipes_as_written_and_as_resolved(name: str) -> None:
    assert _fits(GOOD[name], SCHEMA)
    assert _fits(resolved(load_recipe(GOOD[name])), SCHEMA)


def test_it_takes_the_recipes_that_come_with_limbeck() -> None:
    assert SHIPPED
    for path in SHIPPED:
        assert _fits(parse_yaml(path.read_text(), str(path)), SCHEMA), path


def _changed(name: str, way: list[str], value: Any) -> Any:
    document = copy.deepcopy(GOOD[name])
    holder = document
    for part in way[:-1]:
        holder = holder[part]
    holder[way[-1]] = value
    return document


@pytest.mark.parametrize(
    ("name", "way", "value"),
    [
        ("kd", ["studnet"], "cnn"),
        ("kd", ["train", "epoch"], 3),
        ("kd", ["train", "epochs"], "3"),
        ("kd", ["train", "optimizer", "name"], "sdg"),
        ("kd", ["train", "optimizer", "betas"], [0.9]),
        ("kd", ["method", "temprature"], 2),
        ("kd", ["method", "reduction"], "sum"),
        ("kd", ["method"], "dk"),
        ("kd", ["teacher"], "resnet"),
        ("kd", ["task", "kind"], "clasification"),
        ("kd", ["trackers"], ["wandbb"]),
        ("cohort", ["student", "deploy"], "bset"),
        ("ensemble", ["teachers", "rule", "virtual", "corect"], 0.5),
        ("trained", ["teacher", "train", "train", "epoch"], 1),
        ("calibrated", ["teacher", "temperature"], "auto"),
    ],
)
def test_it_refuses_what_the_loader_refuses(name: str, way: list[str], value: Any) -> None:
    assert not _fits(_changed(name, way, value), SCHEMA)


def test_it_names_every_method_and_is_plain_json() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert {f"method_{name}" for name in all_methods()} <= set(SCHEMA["$defs"])
    assert SCHEMA["$defs"]["Recipe"]["required"] == ["student", "method"]
