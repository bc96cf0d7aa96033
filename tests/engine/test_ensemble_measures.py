"""What an ensemble is made of: its members' accuracy, and how often they differ."""

import json
from pathlib import Path

import pytest
import torch

import limbeck as lb
from limbeck.data import eval_batches
from limbeck.engine.evaluate import among_members
from limbeck.recipe.running import run_recipe

RECIPE = {
    "name": "pair",
    "data": {"name": "digits", "num_train": 200},
    "student": {
        "models": [{"model": "cnn", "channels": [2, 4]}, {"model": "cnn", "channels": [4, 8]}],
        "deploy": "ensemble",
    },
    "method": "plain",
    "train": {"epochs": 2, "batch_size": 50},
}


def test_members_against_a_loop() -> None:
    members = [torch.randn(50, 4, generator=torch.Generator().manual_seed(s)) for s in range(3)]
    targets = torch.arange(50) % 4
    targets[:5] = -100
    found = among_members("classification", members, targets)
    right = total = differ = 0
    for row in range(50):
        first = [int(logits[row].argmax()) for logits in members]
        differ += sum(first[i] != first[j] for i, j in ((0, 1), (0, 2), (1, 2)))
        if targets[row] >= 0:
            total += 3
            right += sum(one == targets[row] for one in first)
    assert found["disagreement"] == pytest.approx(differ / 150)
    assert found["member_accuracy"] == pytest.approx(int(right) / total)


def test_equal_members_never_differ() -> None:
    logits = torch.randn(20, 3)
    found = among_members("classification", [logits, logits], None)
    assert found == {"disagreement": 0.0}


def test_other_tasks_tell_nothing() -> None:
    assert among_members("regression", [torch.zeros(2, 1)] * 2, torch.zeros(2)) == {}


def test_an_ensemble_tells_of_its_members_on_test(tmp_path: Path) -> None:
    run_recipe(RECIPE, output=tmp_path / "run", quiet=True)
    test = json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]["test"]
    student = lb.load_run(tmp_path / "run").student
    data = lb.load_data("digits", num_train=200)
    batch = next(iter(eval_batches(data.splits["test"], 600, data.augment_eval)))
    with torch.no_grad():
        each = [member(batch.inputs).argmax(1) for member in student.members]
        mean = student(batch.inputs).argmax(1)
    right = [(one == batch.targets).double().mean() for one in each]
    assert test["member_accuracy"] == pytest.approx(float(sum(right)) / 2)
    assert test["disagreement"] == pytest.approx(float((each[0] != each[1]).double().mean()))
    assert test["accuracy"] == pytest.approx(float((mean == batch.targets).double().mean()))


def test_one_student_has_no_members(tmp_path: Path) -> None:
    recipe = {**RECIPE, "student": {"model": "cnn", "channels": [2, 4]}}
    run_recipe(recipe, output=tmp_path / "run", quiet=True)
    test = json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]["test"]
    assert "member_accuracy" not in test
