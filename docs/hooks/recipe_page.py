"""The recipe reference, written from the JSON schema that the library itself gives out."""

from __future__ import annotations

import inspect
from typing import Any

from docstring_parts import first_paragraph, meanings
from mathematics import to_markdown
from method_pages import table

INTRODUCTION = """# Recipe reference

Every key that a recipe may have, from the schema that checks it (`limbeck schema` prints it). An
unknown key is an error that names the nearest valid one. On the command line a key is written with
dots: `limbeck run recipe.yaml train.epochs=5`."""

Definitions = dict[str, dict[str, Any]]


def page(
    schema: dict[str, Any],
    sources: dict[str, Any],
    common: dict[str, Any],
    networks: dict[str, Any],
) -> str:
    """Return the Markdown page.

    Args:
        schema: a recipe's JSON schema.
        sources: options of each data source, with their defaults, by its name.
        common: options that every data source has, with their usual defaults.
        networks: arguments of each network, with their defaults, by its name.
    """
    definitions: Definitions = schema.get("$defs", {})
    top = "Recipe"
    if "$ref" in schema:
        top = name_of(schema["$ref"])
        schema = definitions[top]
    parts = [INTRODUCTION, section(top, schema)]
    for name in reachable(schema, definitions):
        if name != top and name != "Method" and not name.startswith("method_"):
            parts.append(section(name, definitions[name]))
    shared = ", ".join(f"`{key}`" for key in common)
    own = {
        source: {k: v for k, v in options.items() if k not in common or v != common[k]}
        for source, options in sources.items()
    }
    parts.append(
        f"## Data sources\n\nEvery source also takes {shared}.\n\n"
        + open_arguments("source", "options", own)
    )
    parts.append(
        "## Networks\n\nBeside these: `timm/<id>`, `torchvision/<id>`, `hf/<model type, folder or "
        "hub id>`, `py:module:function` of installed code, and the folder of a saved student.\n\n"
        + open_arguments("network", "arguments", networks)
    )
    return "\n\n".join(parts) + "\n"


def open_arguments(head: str, words: str, entries: dict[str, Any]) -> str:
    """Return the table of named things with the keys that may stand beside their name."""
    rows = [
        [f"`{name}`", ", ".join(f"`{shown(key, value)}`" for key, value in options.items())]
        for name, options in entries.items()
    ]
    return table([head, f"{words}, with their defaults"], rows)


def shown(key: str, value: Any) -> str:
    """Return a key with its default, or the key alone where there is none."""
    return key if value is inspect.Parameter.empty else f"{key}={value!r}"


def name_of(reference: str) -> str:
    """Return the name of the definition that ``reference`` points at."""
    return str(reference).rsplit("/", 1)[-1]


def reachable(schema: dict[str, Any], definitions: Definitions) -> list[str]:
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
        own = [name_of(value["$ref"])] if isinstance(value.get("$ref"), str) else []
        return own + [name for item in value.values() for name in references(item)]
    if isinstance(value, list):
        return [name for item in value for name in references(item)]
    return []


def section(name: str, schema: dict[str, Any]) -> str:
    """Return one definition: its description and its table of keys."""
    short = " Its name alone may stand for it." if "anyOf" in schema else ""
    whole = next((item for item in schema.get("anyOf", []) if "properties" in item), schema)
    text = f"## {name} {{ #{name.lower()} }}"
    description = inspect.cleandoc(whole.get("description", ""))
    if description:
        text += "\n\n" + to_markdown(first_paragraph(description)) + short
    words = meanings(description)
    required = whole.get("required", [])
    rows = [
        [f"`{key}`", kind(value), default(value, key in required), to_markdown(words.get(key, ""))]
        for key, value in whole.get("properties", {}).items()
    ]
    if whole.get("additionalProperties") is True:
        rows.append(["…", "", "", words.get("arguments", "")])
    return text + ("\n\n" + table(["key", "type", "default", "meaning"], rows) if rows else "")


def default(value: dict[str, Any], required: bool) -> str:
    """Return the default of a key as it is written in YAML."""
    if required:
        return "must be given"
    if "default" not in value:
        return ""
    plain = {None: "null", True: "true", False: "false"}
    given = value["default"]
    return f"`{plain[given] if given is None or isinstance(given, bool) else given}`"


def kind(value: dict[str, Any]) -> str:
    """Return the type of a key in words, with links to the definitions that it uses."""
    if "$ref" in value:
        name = name_of(value["$ref"])
        if name == "Method":
            return "[method](methods/index.md)"
        if name.endswith("Teacher"):
            return "[teacher](#modelteacher)"
        return f"[{name}](#{name.lower()})"
    for word in ("anyOf", "oneOf", "allOf"):
        if word in value:
            kinds = [kind(item) for item in value[word]]
            return " or ".join(dict.fromkeys(item for item in kinds if item))
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return " or ".join(f"`{item}`" for item in value["enum"])
    name = str(value.get("type", "anything"))
    if name == "array":
        return f"list of {kind(value.get('items', {}))}"
    words = {"integer": "whole number", "boolean": "true or false", "object": "mapping"}
    words |= {"string": "text", "null": "null"}
    return words.get(name, name) + bounds(value)


def bounds(value: dict[str, Any]) -> str:
    """Return the bounds of a number in words."""
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    said = [f"{sign} {value[key]}" for key, sign in words.items() if key in value]
    return f" ({', '.join(said)})" if said else ""
