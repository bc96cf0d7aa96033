"""The recipe reference, written from the JSON schema that the library itself validates with."""

from __future__ import annotations

from typing import Any

from method_pages import table


def page(schema: dict[str, Any]) -> str:
    """Return the Markdown page of a recipe's JSON schema."""
    definitions: dict[str, dict[str, Any]] = schema.get("$defs", {})
    parts = [
        "# Recipe reference\n\n"
        "Every key that a recipe may have, from the schema that checks it. An unknown key is an "
        "error that names the nearest valid one. On the command line a key is written with dots: "
        "`limbeck run recipe.yaml train.epochs=5`.",
        section("recipe", schema),
    ]
    parts += [section(name, definitions[name]) for name in reachable(schema, definitions)]
    return "\n\n".join(parts) + "\n"


def reachable(schema: dict[str, Any], definitions: dict[str, dict[str, Any]]) -> list[str]:
    """Return the names of definitions in the order a reader meets them."""
    found: list[str] = []
    waiting = references(schema.get("properties", {}))
    while waiting:
        name = waiting.pop(0)
        if name not in found and name in definitions:
            found.append(name)
            waiting += references(definitions[name])
    return found


def references(value: Any) -> list[str]:
    """Return the names of definitions that ``value`` mentions, in order."""
    if isinstance(value, dict):
        own = [value["$ref"].rsplit("/", 1)[-1]] if isinstance(value.get("$ref"), str) else []
        return own + [name for item in value.values() for name in references(item)]
    if isinstance(value, list):
        return [name for item in value for name in references(item)]
    return []


def section(name: str, schema: dict[str, Any]) -> str:
    """Return one definition: its description and its table of keys."""
    text = f"## {name} {{ #{name.lower()} }}"
    if schema.get("description"):
        text += "\n\n" + " ".join(str(schema["description"]).split("\n\n")[0].split())
    if "enum" in schema:
        return text + "\n\nOne of " + ", ".join(f"`{value}`" for value in schema["enum"]) + "."
    if not schema.get("properties"):
        return text + "\n\n" + (kind(schema) or "any mapping")
    required = schema.get("required", [])
    rows = [
        [
            f"`{key}`",
            kind(value),
            "must be given"
            if key in required
            else f"`{value.get('default')!r}`"
            if "default" in value
            else "",
            " ".join(str(value.get("description", "")).split()),
        ]
        for key, value in schema["properties"].items()
    ]
    return text + "\n\n" + table(["key", "type", "default", "meaning"], rows)


def kind(value: dict[str, Any]) -> str:
    """Return the type of a key in words, with links to the definitions that it uses."""
    if "$ref" in value:
        name = str(value["$ref"]).rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    for word in ("anyOf", "oneOf", "allOf"):
        if word in value:
            kinds = [kind(item) for item in value[word]]
            return " or ".join(dict.fromkeys(item for item in kinds if item))
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return " or ".join(f"`{item}`" for item in value["enum"])
    name = str(value.get("type", "anything")).replace("null", "none")
    if name == "array":
        return f"list of {kind(value.get('items', {}))}"
    return name.replace("object", "mapping") + bounds(value)


def bounds(value: dict[str, Any]) -> str:
    """Return the bounds of a number in words."""
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    said = [f"{sign} {value[key]}" for key, sign in words.items() if key in value]
    return f" ({', '.join(said)})" if said else ""
