"""Errors a user can meet: one clear line each, naming what was wrong and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class LimbeckError(Exception):
    """Base of every error that Limbeck raises on purpose. The CLI prints it in one line, exit 2.

    Attributes:
        alone: of several processes, whether this one alone knows of it. What all know, the first
            prints.
    """

    alone: bool = False


class RecipeError(LimbeckError, ValueError):
    """A recipe (or an argument that stands for one) says something that cannot be done."""


class ShapeError(LimbeckError, ValueError):
    """Two tensors that should fit together do not."""


class TapError(LimbeckError, ValueError):
    """A tap names a module or role that the model does not have."""


class ModelError(LimbeckError, ValueError):
    """A model cannot be found, built or loaded."""


class DataError(LimbeckError, ValueError):
    """Data are missing, damaged or of an unexpected form."""


class MethodError(LimbeckError, ValueError):
    """A method is unknown, wrongly parametrised, or cannot serve this task, teacher or data."""


class TeacherError(LimbeckError, ValueError):
    """A teacher cannot be built or cannot give what a method asks of it."""


class CacheError(LimbeckError, ValueError):
    """A teacher cache does not belong to this teacher, data or augmentation."""


class CheckpointError(LimbeckError, ValueError):
    """A checkpoint is damaged, of another format, or of another run."""


class StorageError(LimbeckError, OSError):
    """A file could not be written: no permission or no space."""


class ExportError(LimbeckError, ValueError):
    """A student cannot be exported in this form, or what was written answers differently."""


class NonFiniteError(LimbeckError, ArithmeticError):
    """A loss became NaN or infinite."""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Return the choice closest in spelling to ``name``, or None where none is near."""
    table = {choice.lower(): choice for choice in choices}
    begun = [choice for choice in table if len(name) > 1 and choice.startswith(str(name).lower())]
    if len(begun) == 1:
        return table[begun[0]]
    found = difflib.get_close_matches(str(name).lower(), list(table), n=1, cutoff=0.5)
    return table[found[0]] if found else None


def unknown(
    kind: str, name: str, choices: Iterable[str], renamed: Mapping[str, str] | None = None
) -> str:
    """Return the one-line message for a name that is not among ``choices``.

    What ``renamed`` says of a name that was used before goes before likeness of spelling.

    >>> unknown("method", "dk", ["kd", "dml"])
    "unknown method 'dk': did you mean 'kd'? (choices: dml, kd)"
    """
    choices = sorted(choices)
    guess = (renamed or {}).get(name) or nearest(name, choices)
    hint = f": did you mean {guess!r}?" if guess else ""
    return f"unknown {kind} {name!r}{hint} (choices: {', '.join(choices) or 'none'})"
