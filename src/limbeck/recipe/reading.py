"""Reading recipe files: from a path to plain data, with a line for whatever is wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from limbeck.errors import RecipeError, nearest
from limbeck.recipe.plain import as_plain, show
from limbeck.recipe.yaml_text import key_lines, parse_yaml

_LARGEST_FILE = 4_000_000  # bytes; a recipe is a page, not a data set


def read_document(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the plain data of a recipe file, and the line of each dotted key.

    Raises:
        RecipeError: no such file, no permission, not UTF-8, not YAML, empty, not a mapping.
    """
    text = _read_text(path)
    with named(path):
        document = as_plain(parse_yaml(text, str(path)))
    if document is None:
        raise RecipeError(f"{path}: the file is empty; a recipe needs data, student and method")
    if not isinstance(document, dict):
        raise RecipeError(
            f"{path}: expected a mapping (data: …, student: …, method: …), got {show(document)}"
        )
    return document, key_lines(text)


@contextlib.contextmanager
def named(path: Path | None) -> Iterator[None]:
    """Put the file's name before the message of an error that lacks it."""
    try:
        yield
    except RecipeError as error:
        if path is None or str(error).startswith(str(path)):
            raise
        raise RecipeError(f"{path}: {error}") from None


def name_from(path: Path) -> str:
    """Return the name of a recipe that does not say one: that of its file."""
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
