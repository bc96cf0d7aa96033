"""Loading: a recipe from YAML or Python, with overrides, its paths and its teachers' recipes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.errors import RecipeError, nearest
from limbeck.recipe.overrides import Override, Overrides, apply_override, read_overrides
from limbeck.recipe.paths import resolve_paths
from limbeck.recipe.plain import as_plain, join_key, show
from limbeck.recipe.schema import Recipe
from limbeck.recipe.validation import validate
from limbeck.recipe.yaml_text import key_lines, parse_yaml

_LARGEST_FILE = 4_000_000  # bytes; a recipe is a page, not a data set


def load_recipe(
    source: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Overrides = (),
    *,
    folder: str | os.PathLike[str] | None = None,
) -> Recipe:
    """Load and validate a recipe.

    Args:
        source: a YAML file, or a mapping of plain data, methods and settings.
        overrides: changes, later ones last: texts ``a.b.c=value`` or a mapping of dotted keys.
            Relative paths in them start from the working folder.
        folder: where relative paths in a mapping start from; None: the working folder. Those in a
            file start from the file's folder.

    Raises:
        RecipeError: in one line, whatever is wrong with it.

    >>> load_recipe({"data": "digits", "student": "cnn", "method": "plain"}).train.epochs
    30
    """
    changes = read_overrides(overrides)
    lines: Mapping[str, int] = {}
    label: Path | None
    if isinstance(source, Mapping):
        document = as_plain(source)
        start = Path.cwd() if folder is None else Path(folder)
        document.setdefault("name", "recipe")
        chain: tuple[Path, ...] = ()
        label = None
    else:
        path = Path(source).expanduser()
        document, lines = read_document(path)
        document.setdefault("name", _name_from(path))
        start, chain = path.parent, (path.resolve(),)
        label = path
    with _named(label):
        document = expand(document, start.resolve(), chain)
        for change in changes:
            apply_override(document, change)
        if changes:
            document = expand(document, Path.cwd(), chain)
        return validate(document, {} if changes else lines)


def read_document(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the plain data of a recipe file, and the line of each dotted key.

    Raises:
        RecipeError: no such file, no permission, not UTF-8, not YAML, empty, not a mapping.
    """
    text = _read_text(path)
    with _named(path):
        document = as_plain(parse_yaml(text, str(path)))
    if document is None:
        raise RecipeError(f"{path}: the file is empty; a recipe needs data, student and method")
    if not isinstance(document, dict):
        raise RecipeError(
            f"{path}: expected a mapping (data: …, student: …, method: …), got {show(document)}"
        )
    return document, key_lines(text)


def expand(document: dict[str, Any], folder: Path, chain: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return ``document`` with absolute paths, and with the recipes of its teachers written out.

    A teacher's recipe that says nothing about data (or the kind of task) gets its parent's. What
    is malformed is left as it is, for validation to find.

    Args:
        document: plain data; left unchanged.
        folder: where relative paths start from.
        chain: the recipe files that led here, to find circles.
    """
    document = resolve_paths(document, folder)
    if isinstance(document.get("teacher"), dict):
        document["teacher"] = _expand_teacher(
            document["teacher"], document, _Place("teacher", folder, chain)
        )
    if isinstance(document.get("teachers"), dict):
        document["teachers"] = {
            name: _expand_teacher(teacher, document, _Place(f"teachers.{name}", folder, chain))
            for name, teacher in document["teachers"].items()
        }
    return document


@dataclass(frozen=True)
class _Place:
    """Where a teacher stands: its dotted key, its folder, the recipe files that led here."""

    key: str
    folder: Path
    chain: tuple[Path, ...]

    def below(self, part: str | int) -> _Place:
        return dataclasses.replace(self, key=join_key(self.key, part))


def _expand_teacher(teacher: Any, parent: Mapping[str, Any], place: _Place) -> Any:
    if not isinstance(teacher, dict):
        return teacher
    teacher = dict(teacher)
    if isinstance(teacher.get("ensemble"), list):
        inner = place.below("ensemble")
        teacher["ensemble"] = [
            _expand_teacher(member, parent, inner.below(position))
            for position, member in enumerate(teacher["ensemble"])
        ]
    if isinstance(teacher.get("calibrated"), dict):
        inner = place.below("calibrated")
        teacher["calibrated"] = _expand_teacher(teacher["calibrated"], parent, inner)
    if isinstance(teacher.get("train"), str | dict) and set(teacher) <= {"train", "overrides"}:
        teacher = {"train": _trained(teacher, parent, place)}
    return teacher


def _trained(
    teacher: Mapping[str, Any], parent: Mapping[str, Any], place: _Place
) -> dict[str, Any]:
    """Return the recipe that trains a teacher, written out."""
    inner, folder, chain = teacher["train"], place.folder, place.chain
    changes = _own_overrides(teacher, place)
    if isinstance(inner, str):
        path = Path(inner)
        if path.resolve() in chain:
            circle = " -> ".join(step.name for step in (*chain, path))
            raise RecipeError(f"{place.key}.train: a recipe cannot train its own teacher: {circle}")
        try:
            inner, _ = read_document(path)
        except RecipeError as error:
            raise RecipeError(f"{place.key}.train: {error}") from None
        inner.setdefault("name", _name_from(path))
        folder, chain = path.parent, (*chain, path.resolve())
    inner = dict(inner)
    inner.setdefault("name", "teacher")
    if "data" not in inner and "data" in parent:
        inner["data"] = parent["data"]
    kind = parent["task"].get("kind") if isinstance(parent.get("task"), dict) else None
    if kind is not None and "task" not in inner:
        inner["task"] = {"kind": kind}
    inner = expand(inner, folder, chain)
    for change in changes:
        apply_override(inner, change)
    return expand(inner, folder, chain) if changes else inner


def _own_overrides(teacher: Mapping[str, Any], place: _Place) -> list[Override]:
    overrides = teacher.get("overrides", {})
    if not isinstance(overrides, dict):
        raise RecipeError(
            f"{place.key}.overrides: expected a mapping of dotted keys, got {show(overrides)}"
        )
    return read_overrides(overrides)


@contextlib.contextmanager
def _named(path: Path | None) -> Iterator[None]:
    """Put the file's name before the message of an error that lacks it."""
    try:
        yield
    except RecipeError as error:
        if path is None or str(error).startswith(str(path)):
            raise
        raise RecipeError(f"{path}: {error}") from None


def _name_from(path: Path) -> str:
    return path.stem if path.stem else "recipe"


def _read_text(path: Path) -> str:
    try:
        if path.is_file() and path.stat().st_size > _LARGEST_FILE:
            raise RecipeError(f"{path}: {path.stat().st_size:,} bytes is too large for a recipe")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise RecipeError(f"{path}: there is no such file{_near(path)}") from None
    except IsADirectoryError:
        inside = path / "recipe.yaml"
        hint = f"; did you mean {inside}?" if inside.is_file() else ""
        raise RecipeError(f"{path}: expected a recipe file, got a folder{hint}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError(f"{show(str(path))}: cannot be read ({reason})") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path}: expected UTF-8 text, got byte 0x{raw[error.start]:02x} at position "
            f"{error.start}"
        ) from None


def _near(path: Path) -> str:
    try:
        there = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f" (nor a folder {path.parent})"
    guess = nearest(path.name, there)
    return f": did you mean {path.parent / guess}?" if guess else ""
