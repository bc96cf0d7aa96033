"""Cross-fitted teachers by recipe: trained once a fold, found again, refused where senseless."""

from typing import Any

import pytest
import torch

from limbeck.data import load_data
from limbeck.errors import LimbeckError, RecipeError
from limbeck.recipe import build_plan, load_recipe
from limbeck.recipe.running import run_recipe

TINY = {"model": "mlp", "widths": [8]}
TEACHER = {"student": TINY, "method": "plain", "train": {"epochs": 1, "batch_size": 256}}
FEW = {"name": "digits", "num_train": 300}


def document(teacher: Any, **more: Any) -> dict[str, Any]:
    train = {"epochs": 1, "batch_size": 128}
    return {"data": FEW, "teacher": teacher, "student": TINY, "method": "kd", "train": train} | more


def build(teacher: Any, folder: Any, said: list[str], **more: Any) -> Any:
    recipe = load_recipe(document(teacher, **more))
    return build_plan(recipe, store=folder, quiet=False, say=said.append)


def test_a_recipe_is_trained_without_each_fold_once(tmp_path, capsys):
    said: list[str] = []
    plan = build({"crossfit": {"train": TEACHER}, "folds": 3}, tmp_path, said)
    assert sum("is trained first" in line for line in said) == 3
    teacher = plan.teachers["teacher"]
    train = plan.data.splits["train"]
    left_out = teacher.unseen[:, train.indices]
    assert bool((left_out.sum(dim=0) == 1).all())
    assert left_out.sum(dim=1).tolist() == [100, 100, 100]
    build({"crossfit": {"train": TEACHER}, "folds": 3}, tmp_path, said)
    assert sum("is trained first" in line for line in said) == 3
    teacher.bind(plan.data, torch.device("cpu"))
    assert "by those that have not seen them" in said[-1]


def test_the_teacher_may_have_other_labels_and_calibration(tmp_path):
    said: list[str] = []
    labelled = {**TEACHER, "data": FEW}
    few = {**FEW, "labels_per_class": 3}
    plan = build(
        {"crossfit": {"calibrated": {"train": labelled}}, "folds": 2}, tmp_path, said, data=few
    )
    train = plan.data.splits["train"]
    assert int(train.labelled.sum()) == 30
    assert bool((plan.teachers["teacher"].unseen[:, train.indices].sum(dim=0) == 1).all())


def test_a_forest_in_a_run_whose_recipe_says_all(tmp_path):
    forest = {"crossfit": {"sklearn": "RandomForestClassifier"}, "folds": 2, "seed": 3}
    outcome = run_recipe(document(forest), output=tmp_path / "run", quiet=True)
    assert "cross-fitted over 2 folds" in outcome.summary["teachers"]["teacher"]["what"]
    assert load_recipe(tmp_path / "run" / "recipe.yaml").teacher.seed == 3


def test_a_fold_can_be_left_out_of_any_data():
    whole = load_data("digits", num_train=50)
    parts = [load_data("digits", num_train=50, leave_out={"fold": k, "of": 5}) for k in range(5)]
    positions = [set(part.splits["train"].indices.tolist()) for part in parts]
    everything = set(whole.splits["train"].indices.tolist())
    assert all(len(part) == 40 for part in positions)
    assert sorted(i for part in positions for i in everything - part) == sorted(everything)
    for part in parts:
        assert torch.equal(part.splits["test"].indices, whole.splits["test"].indices)
        assert part.record.record()["train"] == 40
    assert "without fold 0 of 5" in parts[0].describe()
    assert len({part.fingerprint() for part in parts}) == 5


@pytest.mark.parametrize(
    ("leave_out", "line"),
    [
        ({"fold": 5, "of": 5}, "leave_out.fold: expected 0 to 4, got 5"),
        ({"fold": 0, "of": 1}, "leave_out.of: expected 2 to 50"),
        ({"fold": 0}, "leave_out.of: expected a whole number, got None"),
        ({"fold": 0, "off": 5}, "unknown key 'off': did you mean 'of'"),
        ({"fold": 0, "of": 5, "seed": 0.5}, "leave_out.seed: expected a whole number"),
    ],
)
def test_folds_that_do_not_fit(leave_out, line):
    with pytest.raises(RecipeError, match=line):
        load_data("digits", num_train=50, leave_out=leave_out)


@pytest.mark.parametrize(
    ("teacher", "more", "line"),
    [
        ({"crossfit": {"train": TEACHER}, "folds": 1}, {}, "teacher.folds: expected a number of"),
        ({"crossfit": {"virtual": {}}}, {}, "teacher.crossfit: expected a teacher that is fitted"),
        (
            {"crossfit": {"ensemble": [{"train": TEACHER}, "peers"]}},
            {},
            "teacher.crossfit.ensemble.1: ",
        ),
        (
            {"crossfit": {"train": TEACHER}},
            {"method": ["kd", "kcd"]},
            "teacher.crossfit: method kcd changes samples",
        ),
        ({"crossfit": {"train": TEACHER}}, {"method": "sp"}, "asks for features"),
        (
            {"crossfit": {"train": {**TEACHER, "method": "kd", "teacher": {"train": TEACHER}}}},
            {},
            "teacher.crossfit.train: its own teacher 'teacher' has learned from the samples of",
        ),
        (
            {
                "crossfit": {
                    "train": {**TEACHER, "data": {**FEW, "leave_out": {"fold": 0, "of": 2}}}
                }
            },
            {},
            "leave_out: the folds are drawn here",
        ),
    ],
)
def test_refusals(teacher, more, line):
    with pytest.raises(LimbeckError, match=line):
        build_plan(load_recipe(document(teacher, **more)), train_teachers=False)
