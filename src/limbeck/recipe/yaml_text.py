"""YAML as recipes use it: the YAML 1.2 core schema, no duplicate keys, errors in one line.

PyYAML follows YAML 1.1, where ``1e-3`` is text, ``no`` is false and ``1:30`` is ninety. Recipes
are read by the rules of YAML 1.2: ``1e-3`` is a number, and only true and false are booleans.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from limbeck.errors import RecipeError
from limbeck.recipe.plain import join_key, show

_SCALARS = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("tag:yaml.org,2002:merge", r"<<", "<"),
)


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2 and without duplicate keys."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own class attribute

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, yaml.Mark] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "expected a key that is text", key_node.start_mark
                )
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if key_node.value in seen:
                first = seen[key_node.value].line + 1
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"duplicate key {show(key_node.value)} (first on line {first})",
                    key_node.start_mark,
                )
            seen[key_node.value] = key_node.start_mark
        return super().construct_mapping(node, deep)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    if len(text) > 1000:  # Python refuses to read integers of more than 4300 digits
        raise yaml.constructor.ConstructorError(
            None, None, f"number of {len(text)} digits", node.start_mark
        )
    return int(text, base)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what either version of YAML would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), [*_first, ""])
    _Dumper.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), [*_first])
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def _flow_if_scalars(dumper: _Dumper, data: list[Any]) -> yaml.Node:
    flow = not any(isinstance(item, dict | list) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


_Dumper.add_representer(list, _flow_if_scalars)


def parse_yaml(text: str, source: str) -> Any:
    """Return what YAML text says.

    Args:
        text: the document.
        source: what to call it in messages, usually the file's name.

    Raises:
        RecipeError: ``source:line:column: what is wrong``, in one line.
    """
    try:
        return _load(text)
    except yaml.reader.ReaderError as error:
        line, column = _line_and_column(text, error.position)
        message = f"{source}:{line}:{column}: character {show(text[error.position])} not allowed"
        raise RecipeError(message) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise RecipeError(f"{place}: {_problem(error)}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise RecipeError(f"{source}: nested too deeply for a recipe") from None
    except ValueError as error:
        raise RecipeError(f"{source}: {' '.join(str(error).split())}") from None


def _problem(error: yaml.MarkedYAMLError) -> str:
    """Say in one line what PyYAML says in several."""
    problem = " ".join((error.problem or error.context or "not YAML").split())
    if problem.startswith("could not determine a constructor for the tag"):
        tag = problem.rsplit(" ", 1)[-1].strip("'").replace("tag:yaml.org,2002:", "!!")
        return f"tag {tag} not allowed: a recipe holds plain data only"
    if problem == "but found another document":
        return "a second document begins here: a recipe is one document"
    if "'\\t' that cannot start" in problem:
        return "a tab stands where YAML wants spaces"
    return problem


def _load(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _line_and_column(text: str, position: int) -> tuple[int, int]:
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


def write_yaml(data: Any) -> str:
    """Return plain data as YAML: keys in their order, one way to write each value."""
    text: str = yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=96, indent=2
    )
    return text


def key_lines(text: str) -> dict[str, int]:
    """Return the line (from 1) of every dotted key in valid YAML text."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
    finally:
        loader.dispose()
    lines: dict[str, int] = {}
    _collect_lines(node, "", lines, 0)
    return lines


def _collect_lines(node: yaml.Node | None, key: str, lines: dict[str, int], depth: int) -> None:
    if depth > 40 or len(lines) > 10_000:
        return
    if isinstance(node, yaml.MappingNode):
        for key_node, value in node.value:
            name = join_key(key, str(key_node.value))
            lines[name] = key_node.start_mark.line + 1
            _collect_lines(value, name, lines, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            name = join_key(key, position)
            lines[name] = value.start_mark.line + 1
            _collect_lines(value, name, lines, depth + 1)
