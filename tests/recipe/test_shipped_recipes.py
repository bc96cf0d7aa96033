"""The recipes that come with Limbeck: every method has one, and every one builds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from good_recipes import SHIPPED

from limbeck.methods import all_methods
from limbeck.recipe import build_plan, load_recipe

HOMES = {"tables": "tabular", "text": "text"}
"""Where the data of a folder's recipes lie, which are not in the repository."""


def beside_its_data(path: Path, home: Path, folder: Path) -> Path:
    """Return a copy of a recipe, and of those beside it, in a folder with their data."""
    name = Path(load_recipe(path).data.arguments["path"]).parent.name
    if not (home / name).is_dir():
        pytest.skip(
            f"no folder {home / name}: the README beside the recipe says what belongs there"
        )
    shutil.copytree(path.parent, folder)
    (folder / name).symlink_to(home / name)
    return folder / path.name


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_it_builds(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if path.parent.name in HOMES:
        home = request.getfixturevalue("shared_data") / HOMES[path.parent.name]
        path = beside_its_data(path, home, tmp_path / "recipes")
    plan = build_plan(load_recipe(path), store=tmp_path, train_teachers=False)
    assert plan.make_student() is not None


def test_every_method_has_a_recipe() -> None:
    named = {method.name for path in SHIPPED for method in load_recipe(path).methods}
    assert named == set(all_methods())
