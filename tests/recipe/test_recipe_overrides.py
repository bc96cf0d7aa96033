"""Dotted overrides."""

from typing import Any

import pytest
from good_recipes import GOOD

from limbeck.errors import RecipeError
from limbeck.recipe import load_recipe


def _loaded(name: str, *overrides: str) -> Any:
    return load_recipe(GOOD[name], overrides)


def test_values_are_yaml() -> None:
    recipe = _loaded(
        "kd",
        "train.epochs=5",
        "train.optimizer.lr=1e-2",
        "train.ema=null",
        "train.compile=true",
        "student.channels=[3, 4]",
        "trackers=[]",
        "name=no",
        "train.schedule={name: cosine, final: 0.1}",
    )
    assert (recipe.train.epochs, recipe.train.optimizer.lr) == (5, 0.01)
    assert recipe.train.ema is None
    assert recipe.train.compile is True
    assert recipe.student.arguments["channels"] == (3, 4)
    assert recipe.trackers == ()
    assert recipe.name == "no"
    assert recipe.train.schedule.final == 0.1


def test_the_last_one_wins() -> None:
    assert _loaded("kd", "seed=1", "seed=2").seed == 2


def test_short_forms_are_written_out() -> None:
    recipe = _loaded("short", "method.weight=3", "student.layers=2", "data.seed=4")
    assert recipe.method.weight == 3.0
    assert recipe.student.arguments["layers"] == 2
    assert recipe.data.arguments["seed"] == 4


@pytest.mark.parametrize("key", ["method.1", "method.fitnet"])
def test_entries_of_a_list_by_position_or_name(key: str) -> None:
    recipe = _loaded("ensemble", f"{key}.weight=7")
    assert [method.weight for method in recipe.methods] == [0.9, 7.0]


def test_the_only_entry_needs_no_name() -> None:
    assert _loaded("forest", "student.dropout=0.5").students[0].arguments["dropout"] == 0.5
    assert _loaded("snapshot", "method.epsilon=0.2").methods[0].epsilon == 0.2


def test_a_single_method_is_also_entry_0() -> None:
    assert _loaded("kd", "method.0.temperature=9").methods[0].temperature == 9.0


def test_members_of_a_cohort() -> None:
    recipe = _loaded("cohort", "student.models.0.layers=2", "student.models.mlp.widths=[8]")
    assert recipe.students[0].arguments["layers"] == 2
    assert recipe.students[1].arguments["widths"] == (8,)


def test_teachers_and_their_recipes() -> None:
    assert _loaded("ensemble", "teachers.rule.virtual.correct=0.5").teachers["rule"]
    recipe = _loaded("trained", "teacher.train.train.epochs=9")
    assert recipe.teacher.train.train.epochs == 9


def test_a_teachers_recipe_follows_the_data_as_they_are_changed() -> None:
    recipe = _loaded("trained", "data.seed=7", "teacher.train.data.label_fraction=0.5")
    assert recipe.data.arguments["seed"] == recipe.teacher.train.data.arguments["seed"] == 7
    assert recipe.data.arguments["label_fraction"] == 0.1
    assert recipe.teacher.train.data.arguments["label_fraction"] == 0.5


def test_a_teacher_can_be_exchanged() -> None:
    recipe = _loaded("trained", "teacher={train: {student: mlp, method: plain}}")
    assert recipe.teacher.train.student.model == "mlp"
    assert recipe.teacher.train.data == recipe.data
    with pytest.raises(RecipeError, match="teacher: expected one kind of teacher, got model and t"):
        _loaded("kd", "teacher.train.train.epochs=3")


def test_python_values() -> None:
    recipe = load_recipe(GOOD["kd"], {"train.epochs": 4, "student.channels": (1, 2)})
    assert recipe.train.epochs == 4
    assert recipe.student.arguments["channels"] == (1, 2)


def test_the_document_given_is_not_changed() -> None:
    before = repr(GOOD["trained"])
    _loaded("trained", "teacher.train.train.epochs=9", "method.temperature=1")
    assert repr(GOOD["trained"]) == before


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.epohcs=3", "train.epohcs: unknown key 'epohcs': did you mean 'epochs'?"),
        ("trian.epochs=3", "trian: unknown key 'trian': did you mean 'train'?"),
        ("method.temprature=3", "method.temprature: unknown key 'temprature'"),
        ("train.epochs", "override 'train.epochs': expected key=value"),
        ("=3", "expected key=value"),
        ("train..epochs=3", "expected a dotted key, got 'train..epochs'"),
        ("train.epochs=[1", "override train.epochs:1:3: expected ',' or ']'"),
        ("train.epochs.x=3", "train.epochs is 2, which has no key 'x'"),
        ("trackers.1=wandb", "trackers has 1 entries, numbered from 0"),
        ("train.epochs='5'", "train.epochs: expected a whole number, got '5'"),
    ],
)
def test_what_is_wrong_with_an_override(override: str, line: str) -> None:
    with pytest.raises(RecipeError) as caught:
        _loaded("kd", override)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_which_entry_must_be_said_where_there_are_several() -> None:
    with pytest.raises(RecipeError, match=r"unknown entry of method 'weight'.*fitnet, kd"):
        _loaded("ensemble", "method.weight=3")
