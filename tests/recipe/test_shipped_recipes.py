"""The recipes that come with Limbeck: every method has one, and every one builds."""

from __future__ import annotations

from pathlib import Path

import pytest
from good_recipes import SHIPPED

from limbeck.methods import all_methods
from limbeck.recipe import build_plan, load_recipe


def on_disk(path: Path, request: pytest.FixtureRequest) -> list[str]:
    """Changes that lead a recipe to data that are not in the repository; skips without them."""
    if path.parent.name != "tables":
        return []
    folder = request.getfixturevalue("shared_data") / "tabular" / "adult"
    if not folder.is_dir():
        pytest.skip(f"needs the Adult table in {folder}")
    names = (("path", "train"), ("test_path", "test"))
    return ["data.num_train=500", *(f"data.{k}={folder / v}.csv.gz" for k, v in names)]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_it_builds(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    recipe = load_recipe(path, on_disk(path, request))
    own = recipe.data.arguments.get("path")
    if own is not None and not Path(own).is_file():
        pytest.skip(f"no file {own}: its README says where it is from")
    plan = build_plan(recipe, store=tmp_path, train_teachers=False)
    assert plan.make_student() is not None


def test_every_method_has_a_recipe() -> None:
    named = {method.name for path in SHIPPED for method in load_recipe(path).methods}
    assert named == set(all_methods())
