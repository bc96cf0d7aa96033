"""Curves are what the log says: means by epoch, or by step where epochs differ in length."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limbeck.reports.curves import learning_plots
from limbeck.reports.evidence import gather
from limbeck.reports.plots import spread
from limbeck.reports.reading import RunRecord
from limbeck.reports.series import common_axis, curve, eval_series, loss_terms, train_series


def log(name: str, seed: int, epochs: int, steps: int) -> RunRecord:
    rows: list[dict[str, Any]] = []
    for epoch in range(epochs):
        for i in range(steps):
            step = epoch * steps + i + 1
            rows.append({"kind": "train", "epoch": epoch, "step": step, "loss": float(step + seed),
                         "task": float("nan"), "lr": 0.1})  # fmt: skip
        step = (epoch + 1) * steps
        rows.append({"kind": "eval", "epoch": epoch, "step": step, "split": "validation",
                     "accuracy": 0.1 * epoch})  # fmt: skip
        rows.append({"kind": "epoch", "epoch": epoch, "step": step, "samples": steps})
    last = {"kind": "eval", "epoch": epochs - 1, "step": epochs * steps, "split": "validation"}
    rows.append({**last, "accuracy": 0.99, "final": True})
    summary = {"name": name, "seed": seed, "status": "done",
               "metrics": {"test": {"accuracy": 0.5}}}  # fmt: skip
    return RunRecord(Path(f"{name}-{seed}"), {"name": name}, {}, tuple(rows), (), summary)


def test_training_terms_are_averaged_by_epoch() -> None:
    record = log("a", 0, epochs=2, steps=3)
    assert train_series(record, "loss") == {1: 2.0, 2: 5.0}
    assert train_series(record, "loss", "step") == {3: 2.0, 6: 5.0}
    assert train_series(record, "task") == {}


def test_the_final_verdict_is_no_point_of_the_curve() -> None:
    record = log("a", 0, epochs=2, steps=3)
    assert eval_series(record, "accuracy") == {1: 0.0, 2: 0.1}
    assert eval_series(record, "accuracy", "step") == {3: 0.0, 6: 0.1}


def test_arms_with_epochs_of_other_lengths_are_drawn_by_step() -> None:
    same = gather([log("a", 0, 2, 3), log("b", 0, 5, 3)])
    other = gather([log("a", 0, 6, 1), log("b", 0, 2, 3)])
    assert common_axis(same) == "epoch"
    assert common_axis(other) == "step"
    assert all("optimiser step" in plot.svg for plot in learning_plots(other))


def test_bands_are_lowest_and_highest_at_shared_points() -> None:
    found = curve([{1: 1.0, 2: 2.0, 3: 9.0}, {1: 3.0, 2: 6.0}, {}])
    assert found is not None
    assert found.x.tolist() == [1, 2]
    assert found.mean.tolist() == [2.0, 4.0]
    assert found.low.tolist() == [1.0, 2.0]
    assert found.high.tolist() == [3.0, 6.0]
    assert curve([{}, {}]) is None


def test_long_curves_are_averaged_in_groups() -> None:
    found = curve([{x: float(x) for x in range(1, 1001)}])
    assert found is not None
    assert len(found.x) == 143  # groups of 7
    assert found.x[0] == 7
    assert found.mean[0] == pytest.approx(4.0)
    assert found.x[-1] == 1000
    assert found.mean[-1] == pytest.approx(np.mean(range(995, 1001)))


def test_terms_are_those_with_numbers_the_total_last() -> None:
    evidence = gather([log("a", 0, 1, 2)])
    assert loss_terms(evidence) == ["loss"]


def test_labels_are_moved_apart_and_stay_inside() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        values = sorted(rng.uniform(0, 10, size=6).tolist())
        placed = spread(values, 1.5, 0.0, 10.0)
        assert all(b - a >= 1.5 - 1e-9 for a, b in itertools.pairwise(placed))
        assert placed[0] >= 0
        assert placed[-1] <= 10
    assert spread([1.0, 5.0], 1.0) == [1.0, 5.0]  # nothing moves without need
