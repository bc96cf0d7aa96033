"""A study that extends another says only in what it differs."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_study import TINY

from limbeck.errors import RecipeError
from limbeck.studies import load_study
from limbeck.studies.planning import plan_study


def write(path: Path, document: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write(tmp_path / "study.yaml", {**TINY, "name": "base", "seeds": [0, 1]})


def extend(base: Path, **changes: Any) -> Path:
    return write(base.parent / "wider" / "study.yaml", {"extends": "../study.yaml", **changes})


def test_what_is_not_said_stays(base: Path) -> None:
    other = load_study(extend(base))
    first = load_study(base)
    assert other.study.name == "wider"  # of its own folder: the name is not handed on
    assert other.study.arms == first.study.arms
    assert other.study.claims == first.study.claims
    assert other.study.compare == first.study.compare
    assert other.study.scales == first.study.scales
    assert other.study.extends == "../study.yaml"


def test_the_recipe_is_changed_key_by_key(base: Path) -> None:
    changed = extend(base, recipe={"student.channels": [3, 6], "train.epochs": 1})
    recipe = plan_study(load_study(changed)).arms[0].trials[0].recipe
    before = plan_study(load_study(base)).arms[0].trials[0].recipe
    assert recipe.student.arguments["channels"] == (3, 6)
    assert (recipe.train.epochs, recipe.train.batch_size) == (1, 50)
    assert recipe.data == before.data


def test_entries_with_names_replace_those_of_their_name(base: Path) -> None:
    arm = {"set": {"method": "label_smoothing"}, "grid": {"method.epsilon": [0.1, 0.2]}}
    study = load_study(extend(base, arms={"smoothing": arm, "plain": arm}, seeds=[5])).study
    assert list(study.arms) == ["plain", "kd", "smoothing"]
    assert study.arms["plain"].set == {"method": "label_smoothing"}
    assert study.seeds == (5,)


def test_relative_paths_start_where_the_first_study_lies(base: Path) -> None:
    teacher = TINY["arms"]["kd"]["set"]["teacher"]["train"]
    write(base.parent / "teacher.yaml", {"data": "digits", **teacher})
    arms = {"kd": {**TINY["arms"]["kd"], "set": {"method": "kd", "teacher.train": "teacher.yaml"}}}
    changed = extend(base, arms=arms)
    again = write(base.parent / "a" / "b.yaml", {"extends": "../wider/study.yaml"})
    for path in (changed, again):
        loaded = load_study(path)
        assert loaded.folder == base.parent.resolve()
        plan_study(loaded)


def test_claims_may_lie_beside_the_one_that_extends(base: Path) -> None:
    path = extend(base, claims="claims.yaml")
    write(path.with_name("claims.yaml"), {"kd-helps": {"says": "x", "smallest_effect": 0.5}})
    assert load_study(path).study.claims["kd-helps"].smallest_effect == 0.5


def test_from_python(base: Path) -> None:
    loaded = load_study({"extends": "study.yaml", "seeds": [3]}, folder=base.parent)
    assert (loaded.study.name, loaded.study.seeds) == ("study", (3,))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"extends": 3}, "extends: expected the file of a study, got 3"),
        ({"extends": "none.yaml"}, "there is no such file"),
        ({"extends": "study.yaml"}, "leads back to a study that extends this one"),
        ({"extend": "../study.yaml"}, "unknown key 'extend': did you mean 'extends'?"),
        ({"recipe": {"data.name.x": 1}}, "data.name is 'digits', which has no key 'x'"),
        ({"arms": {"kd": 3}}, "arms.kd: expected"),
    ],
)
def test_mistakes_are_one_line(base: Path, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError) as found:
        load_study(extend(base, **changes))
    assert line in str(found.value)
    assert "\n" not in str(found.value)


def test_a_recipe_in_a_file_cannot_be_changed_key_by_key(base: Path) -> None:
    write(base.parent / "recipe.yaml", TINY["recipe"])
    write(base, {**TINY, "recipe": "recipe.yaml"})
    with pytest.raises(RecipeError, match="keeps its recipe in a file, which cannot be changed"):
        load_study(extend(base, recipe={"train.epochs": 1}))
    recipe = plan_study(load_study(extend(base))).arms[0].trials[0].recipe
    assert recipe.train.epochs == TINY["recipe"]["train"]["epochs"]


def test_a_key_that_no_study_has_is_told_of_the_file_that_it_stands_in(base: Path) -> None:
    write(base, {**TINY, "sedes": [0, 1]})
    with pytest.raises(RecipeError, match=r"study\.yaml: sedes: unknown key 'sedes': did you mean"):
        load_study(extend(base))
