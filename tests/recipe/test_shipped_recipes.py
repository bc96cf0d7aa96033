"""The recipes that come with Limbeck: every method has one, and every one builds."""

from __future__ import annotations

from pathlib import Path

import pytest
from good_recipes import SHIPPED

from limbeck.methods import all_methods
from limbeck.recipe import build_plan, load_recipe


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_it_builds(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    own = recipe.data.arguments.get("path")
    if own is not None and not Path(own).is_file():
        pytest.skip(f"no file {own}: its README says where it is from")
    plan = build_plan(recipe, store=tmp_path, train_teachers=False)
    assert plan.make_student() is not None


def test_every_method_has_a_recipe() -> None:
    named = {method.name for path in SHIPPED for method in load_recipe(path).methods}
    assert named == set(all_methods())
