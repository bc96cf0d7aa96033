"""Loading: a recipe from YAML or Python, with overrides, its paths and its teachers' recipes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.recipe.expansion import Changes, expand
from limbeck.recipe.overrides import Overrides, read_overrides
from limbeck.recipe.plain import as_plain
from limbeck.recipe.reading import name_from, named, read_document
from limbeck.recipe.schema import Recipe
from limbeck.recipe.validation import validate


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
        document.setdefault("name", name_from(path))
        start, chain = path.parent, (path.resolve(),)
        label = path
    with named(label):
        document = expand(document, start.resolve(), chain, [Changes(tuple(changes), Path.cwd())])
        return validate(document, {} if changes else lines)
