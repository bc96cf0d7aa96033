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
    """Return the studies of papers by number ("19"), in order."""
    found = sorted(recipes_folder().glob("[0-9][0-9]-*/study.yaml"))
    return {file.parent.name.partition("-")[0]: file for file in found}


def paper_study(paper: str) -> Path:
    """Return the study of a paper.

    Args:
        paper: its number ("19", "2") or the name of its folder ("19-yuan").

    Raises:
        RecipeError: no paper of this number has a study.
    """
    studies = paper_studies()
    number = paper.partition("-")[0].zfill(2)
    file = studies.get(number)
    if file is None or paper not in (file.parent.name, number, number.lstrip("0") or "0"):
        names = [one.parent.name for one in studies.values()]
        raise RecipeError(unknown("paper", paper, names))
    return file
