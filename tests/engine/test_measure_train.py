"""The training loss of whole epochs, for claims about where training settles."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from five_methods import digits, make_plan
from reviewing import stop_after

from limbeck.data import eval_batches
from limbeck.engine.running import run_plan
from limbeck.engine.settings import Train
from limbeck.errors import RecipeError
from limbeck.functional import cross_entropy


def rows(folder: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["kind"] == "eval" and row["split"] == "train"]


def test_the_last_epochs_are_measured_and_averaged(tmp_path: Path) -> None:
    plan = make_plan("kd", measure_train=2, ema=None, deploy="last")
    done = run_plan(plan, tmp_path / "run", quiet=True)
    found = rows(tmp_path / "run")
    assert [row["epoch"] for row in found] == [1, 2]
    mean = (found[0]["nll"] + found[1]["nll"]) / 2
    assert done.summary["metrics"]["train"]["nll"] == pytest.approx(mean, rel=1e-12)
    view = digits().splits["train"]
    known = view.select(view.indices[view.labelled])
    (batch,) = eval_batches(known, 512, digits().augment_eval)
    with torch.no_grad():
        last = float(cross_entropy(done.student(batch.inputs), batch.targets))
    assert found[-1]["nll"] == pytest.approx(last, rel=1e-5)


def test_a_killed_run_measures_the_same(tmp_path: Path) -> None:
    plan = make_plan("kd", measure_train=2)
    whole = run_plan(plan, tmp_path / "whole", quiet=True)
    stop_after(13, make_plan("kd", measure_train=2), tmp_path / "cut")
    resumed = run_plan(make_plan("kd", measure_train=2), tmp_path / "cut", resume=True, quiet=True)
    assert resumed.summary["metrics"]["train"] == whole.summary["metrics"]["train"]
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_measuring_changes_no_weight(tmp_path: Path) -> None:
    without = run_plan(make_plan("kd"), tmp_path / "without", quiet=True)
    measured = run_plan(make_plan("kd", measure_train=3), tmp_path / "with", quiet=True)
    assert "train" not in without.summary["metrics"]
    ours, theirs = measured.student.state_dict(), without.student.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_of_a_cohort_the_mean_is_measured(tmp_path: Path) -> None:
    plan = replace(make_plan("dml", measure_train=1, ema=None), cohort="ensemble")
    run_plan(plan, tmp_path / "run", quiet=True)
    assert len(rows(tmp_path / "run")) == 1


def test_a_negative_number_is_one_line() -> None:
    with pytest.raises(RecipeError, match=r"train.measure_train: expected at least 0, got -1"):
        Train(measure_train=-1)
