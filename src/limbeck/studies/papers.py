"""The recipes of papers: where they are, in a checkout and in an installed package."""

from __future__ import annotations

from pathlib import Path

from limbeck.errors import RecipeError, unknown

_INSTALLED = Path(__file__).parents[1] / "_recipes"
_CHECKOUT = Path(__file__).parents[3] / "recipes"


def recipes_folder() -> Path:
    """Return the folder with one folder a paper: the package's own, else the checkout's.

    Raises:
        RecipeError: there is neither.
    """
    for folder in (_INSTALLED, _CHECKOUT):
        if folder.is_dir():
            return folder
    raise RecipeError(
        "the recipes of the papers are not installed: install Limbeck from a wheel or a checkout"
    )


def paper_studies() -> dict[str, Path]:
    """Return the studies of papers by number ("19"), in order.

    A second study of a paper lies in a folder of its own: "05/calibrated".
    """
    root = recipes_folder()
    found = [*root.glob("[0-9][0-9]-*/study.yaml"), *root.glob("[0-9][0-9]-*/*/study.yaml")]
    return {_number(_folder(file)): file for file in sorted(found)}


def _folder(study: Path) -> str:
    """Return a study's folder below the recipes: "19-yuan", "05-kim/calibrated"."""
    return study.parent.relative_to(recipes_folder()).as_posix()


def _number(folder: str) -> str:
    """Return what a folder is called for short: "19", "05/calibrated"."""
    paper, slash, part = folder.partition("/")
    return paper.partition("-")[0] + slash + part


def paper_study(paper: str) -> Path:
    """Return the study of a paper.

    Args:
        paper: its number ("19", "2"), "05/calibrated" for a second study of the paper, or the
            folder ("19-yuan").

    Raises:
        RecipeError: no paper of this number has a study.
    """
    studies = paper_studies()
    for number, file in studies.items():
        short = number.removeprefix("0")
        if paper in (_folder(file), number, short):
            return file
    raise RecipeError(unknown("paper", paper, [_folder(file) for file in studies.values()]))
