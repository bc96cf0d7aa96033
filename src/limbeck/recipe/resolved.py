"""Resolved recipes: plain data with every default visible, as they are saved and compared."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.methods.base import Method
from limbeck.recipe.plain import method_as_plain
from limbeck.recipe.schema import Recipe
from limbeck.recipe.yaml_text import write_yaml

_NOT_CONTENT = ("name", "output", "trackers", "checkpoints")
"""Keys that change nothing about what a student learns."""
_PLACES = ("folder", "budget")
"""Keys of a cache that say where it lies."""

_YOUNGER: Mapping[str, Any] = {
    **dict.fromkeys(("epoch", "leave_out", "label_noise", "imbalance", "probe")),
    "cycles": 1,
}
"""Keys that came later, and what says nothing: so teachers trained before are found again."""


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain data, every default visible; loading it gives it back."""
    return _recipe(recipe)


def recipe_yaml(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML; the same recipe always gives the same text."""
    return write_yaml(resolved(recipe))


def recipe_digest(document: Mapping[str, Any]) -> str:
    """Return a digest of what a resolved recipe learns.

    Name, output, trackers and checkpoints are left out. Files of weights count by their content
    and not by their place, where they can be read.

    Args:
        document: a resolved recipe (see :func:`resolved`).
    """
    text = json.dumps(_content(document), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _recipe(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe's keys in order, with either ``teacher`` or ``teachers``."""
    unused = "teacher" if recipe.teachers else "teachers"
    names = [field.name for field in dataclasses.fields(recipe) if field.name != unused]
    return {name: _plain(getattr(recipe, name)) for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, Method):
        return method_as_plain(value)
    if isinstance(value, Recipe):
        return _recipe(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return found | found.pop("arguments", {})
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _content(value: Any, *, key: str = "") -> Any:
    if isinstance(value, Mapping):
        is_recipe = "student" in value and "method" in value
        left_out = _NOT_CONTENT if is_recipe else _PLACES if "cache" in value else ()
        silent = [k for k, nothing in _YOUNGER.items() if k in value and value[k] == nothing]
        return {k: _content(v, key=k) for k, v in value.items() if k not in (*left_out, *silent)}
    if isinstance(value, list | tuple):
        return [_content(item) for item in value]
    if isinstance(value, str) and key in ("weights", "run", "model", "onnx"):
        return _digest_of_weights(value)
    return value


def _digest_of_weights(path: str) -> str:
    """Return the digest of a file of weights (or of the one in a folder); else ``path`` itself."""
    place = Path(path.removeprefix("hf/"))
    inside = ("student/model.safetensors", "model.safetensors")
    for file in (place, *(place / name for name in inside)):
        try:
            if file.is_file():
                with file.open("rb") as opened:
                    return hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError:
            continue
    return path
