"""Expansion: paths made absolute, overrides applied, the recipes of teachers written out."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.errors import RecipeError
from limbeck.recipe.nesting import inside, with_inside
from limbeck.recipe.overrides import Override, apply_override, read_overrides
from limbeck.recipe.paths import resolve_paths
from limbeck.recipe.plain import join_key, show
from limbeck.recipe.reading import name_from, read_document

_OF_TRAINED = {"train", "overrides", "epoch"}
"""The keys of a teacher that is a recipe."""


@dataclass(frozen=True)
class Changes:
    """Overrides, and the folder that relative paths in them start from."""

    overrides: tuple[Override, ...]
    folder: Path

    def inside(self, prefix: str) -> Changes:
        """Return the changes to what stands below ``prefix``, their keys without it."""
        start = f"{prefix}."
        inner = [
            dataclasses.replace(change, key=change.key.removeprefix(start))
            for change in self.overrides
            if change.key.startswith(start)
        ]
        return dataclasses.replace(self, overrides=tuple(inner))

    def outside(self, prefixes: Sequence[str]) -> Changes:
        """Return the changes that are below none of ``prefixes``."""
        starts = tuple(f"{prefix}." for prefix in prefixes)
        left = [change for change in self.overrides if not change.key.startswith(starts)]
        return dataclasses.replace(self, overrides=tuple(left))


def expand(
    document: Mapping[str, Any],
    folder: Path,
    chain: tuple[Path, ...] = (),
    changes: Sequence[Changes] = (),
) -> dict[str, Any]:
    """Return a recipe with all that it refers to written out.

    A teacher's recipe that says nothing about data (or the kind of task) gets those of the recipe
    around it, overrides included. What is malformed is left as it is, for validation to find.

    Args:
        document: plain data; left unchanged.
        folder: where relative paths start from.
        chain: the recipe files that led here, to find circles.
        changes: overrides, later ones last; those for a teacher's recipe are handed down to it.
    """
    found = resolve_paths(copy.deepcopy(dict(document)), folder)
    for group in changes:
        inner = _recipes_in(found)
        for change in group.outside(inner).overrides:
            # a copy: a later change may reach into this one's value
            apply_override(found, dataclasses.replace(change, value=copy.deepcopy(change.value)))
        found = resolve_paths(found, group.folder)
    place = _Place("", folder, chain, tuple(changes))
    if "teacher" in found:
        found["teacher"] = _teacher(found["teacher"], found, place.below("teacher"))
    if isinstance(found.get("teachers"), dict):
        inner_place = place.below("teachers")
        found["teachers"] = {
            name: _teacher(teacher, found, inner_place.below(name))
            for name, teacher in found["teachers"].items()
        }
    return found


def _recipes_in(document: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys of the recipes that teachers of this recipe are trained by."""
    keys: list[str] = []
    _collect(document.get("teacher"), "teacher", keys)
    teachers = document.get("teachers")
    if isinstance(teachers, Mapping):
        for name, teacher in teachers.items():
            _collect(teacher, f"teachers.{name}", keys)
    return keys


def _collect(teacher: Any, key: str, keys: list[str]) -> None:
    if not isinstance(teacher, Mapping):
        return
    if isinstance(teacher.get("train"), str | Mapping):
        keys.append(f"{key}.train")
    for inner, held in inside(teacher):
        _collect(held, f"{key}.{inner}", keys)


@dataclass(frozen=True)
class _Place:
    """Where a teacher stands: its key, its folder, the files that led here, and the changes."""

    key: str
    folder: Path
    chain: tuple[Path, ...]
    changes: tuple[Changes, ...]

    def below(self, part: str | int) -> _Place:
        return dataclasses.replace(self, key=join_key(self.key, part))


def _teacher(teacher: Any, parent: Mapping[str, Any], place: _Place) -> Any:
    if not isinstance(teacher, dict):
        return teacher
    teacher = with_inside(teacher, lambda key, held: _teacher(held, parent, place.below(key)))
    if isinstance(teacher.get("train"), str | dict) and set(teacher) <= _OF_TRAINED:
        teacher |= {"train": _trained(teacher, parent, place.below("train"))}
        teacher.pop("overrides", None)
    return teacher


def _trained(
    teacher: Mapping[str, Any], parent: Mapping[str, Any], place: _Place
) -> dict[str, Any]:
    """Return the recipe that trains a teacher, written out."""
    inner, folder, chain = teacher["train"], place.folder, place.chain
    if isinstance(inner, str):
        path = Path(inner)
        if path.resolve() in chain:
            circle = " -> ".join(step.name for step in (*chain, path))
            raise RecipeError(f"{place.key}: a recipe cannot train its own teacher: {circle}")
        try:
            inner, _ = read_document(path)
        except RecipeError as error:
            raise RecipeError(f"{place.key}: {error}") from None
        inner.setdefault("name", name_from(path))
        folder, chain = path.parent, (*chain, path.resolve())
    inner = dict(inner)
    inner.setdefault("name", "teacher")
    if "data" not in inner and "data" in parent:
        inner["data"] = parent["data"]
    kind = parent["task"].get("kind") if isinstance(parent.get("task"), dict) else None
    if kind is not None and "task" not in inner:
        inner["task"] = {"kind": kind}
    changes = [_own_changes(teacher, place)]
    changes += [group.inside(place.key) for group in place.changes]
    return expand(inner, folder, chain, changes)


def _own_changes(teacher: Mapping[str, Any], place: _Place) -> Changes:
    overrides = teacher.get("overrides", {})
    if not isinstance(overrides, dict):
        key = place.key.removesuffix("train") + "overrides"
        raise RecipeError(f"{key}: expected a mapping of dotted keys, got {show(overrides)}")
    return Changes(tuple(read_overrides(overrides)), place.folder)
