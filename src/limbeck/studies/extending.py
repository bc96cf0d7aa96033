"""Extending: a study that says only in what it differs from another one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.errors import RecipeError, unknown
from limbeck.recipe.overrides import apply_override, read_overrides
from limbeck.recipe.paths import absolute
from limbeck.recipe.plain import show
from limbeck.recipe.reading import named, read_document
from limbeck.studies.schema import Study

NAMED = ("arms", "axes", "scales")
"""Parts whose entries have names: an entry replaces that of its name, the others stay."""


def with_extended(
    document: dict[str, Any], start: Path, chain: tuple[Path, ...] = ()
) -> tuple[dict[str, Any], Path]:
    """Return a study with what it extends, its claims written out.

    Of the two, ``recipe`` is changed key by key (dotted keys reach inside), entries of ``arms``,
    ``axes`` and ``scales`` replace those of their name, and whatever else is said replaces what
    was said. The name is not handed on.

    Args:
        document: plain data; changed in place.
        start: the folder that it stands in.
        chain: the files that led here.

    Returns:
        the document, and the folder that relative paths start from: that of the study at the root.

    Raises:
        RecipeError: a file cannot be read or has a key that no study has, the chain leads back to
            itself, or the recipe of the study that is extended is a file of its own.
    """
    claims = document.get("claims")
    if isinstance(claims, str):
        document["claims"] = read_document(Path(absolute(claims, start)))[0]
    source = document.get("extends")
    if source is None:
        return document, start
    if not isinstance(source, str):
        raise RecipeError(f"extends: expected the file of a study, got {show(source)}")
    below = Path(absolute(source, start))
    if below.resolve() in chain:
        raise RecipeError(f"extends: {source} leads back to a study that extends this one")
    base, _ = read_document(below)
    with named(below):
        _refuse_unknown(base)
        base, folder = with_extended(base, below.parent, (*chain, below.resolve()))
    return _merged(base, document, below), folder


def _refuse_unknown(base: Mapping[str, Any]) -> None:
    """Refuse a key that no study has, while it is known in which file it stands."""
    known = [field.name for field in dataclasses.fields(Study)]
    for key in base:
        if key not in known:
            raise RecipeError(f"{key}: " + unknown("key", key, known))


def _merged(base: dict[str, Any], changes: dict[str, Any], below: Path) -> dict[str, Any]:
    found = {key: value for key, value in base.items() if key not in ("name", "extends")}
    for key, value in changes.items():
        before = found.get(key)
        if key == "recipe" and isinstance(value, Mapping):
            if not isinstance(before, dict):
                raise RecipeError(
                    f"recipe: {below} keeps its recipe in a file, which cannot be changed here; "
                    "say which file instead"
                )
            for override in read_overrides(value):
                apply_override(before, override)
        elif key in NAMED and isinstance(value, dict) and isinstance(before, dict):
            found[key] = {**before, **value}
        else:
            found[key] = value
    return found
