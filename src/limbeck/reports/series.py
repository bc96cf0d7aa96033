"""Series out of the log: what a curve is drawn from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from limbeck.reports.evidence import Arm, Evidence
from limbeck.reports.reading import RunRecord

Axis = Literal["epoch", "step"]
MAX_POINTS = 150
"""Points of a training curve; longer ones are averaged in groups."""
_NOT_A_LOSS = frozenset({"kind", "epoch", "step", "lr", "split", "stage", "grad_norm", "samples"})


@dataclass(frozen=True)
class Curve:
    """Mean and range over seeds at ``x``: epochs (from 1) or optimiser steps. All ``[points]``."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def drawn_runs(arm: Arm) -> tuple[RunRecord, ...]:
    """Return the runs whose curves are drawn: finished ones, else those still unfinished."""
    return arm.runs or arm.unfinished


def common_axis(evidence: Evidence) -> Axis:
    """Return ``epoch`` where one epoch is as many steps in every arm, else ``step``.

    An arm with few samples has short epochs: drawn over epochs it would seem to learn slowly.
    """
    lengths = set()
    for arm in evidence.arms:
        for run in drawn_runs(arm)[:1]:
            rows = [row for row in run.rows("epoch") if is_number(row.get("step"))]
            lengths |= {round(float(rows[-1]["step"]) / len(rows))} if rows else set()
    return "epoch" if len(lengths) < 2 else "step"


def curve(series: Sequence[Mapping[int, float]]) -> Curve | None:
    """Return mean, lowest and highest of several seeds at the points that all of them have."""
    kept = [one for one in series if one]
    shared = sorted(set.intersection(*(set(one) for one in kept))) if kept else []
    if not shared:
        return None
    table = np.array([[one[x] for x in shared] for one in kept])
    if len(shared) > MAX_POINTS:
        group = -(-len(shared) // MAX_POINTS)
        starts = np.arange(0, len(shared), group)
        sizes = np.diff([*starts, len(shared)])
        table = np.add.reduceat(table, starts, axis=1) / sizes
        shared = [shared[int(start + size) - 1] for start, size in zip(starts, sizes, strict=True)]
    return Curve(np.array(shared), table.mean(0), table.min(0), table.max(0))


def eval_series(
    record: RunRecord, key: str, axis: Axis = "epoch", split: str = "validation"
) -> dict[int, float]:
    """Return epoch or step -> metric on a split, from the log; the final verdict is left out."""
    return {
        int(row[axis]) + (axis == "epoch"): float(row[key])
        for row in record.rows("eval")
        if row.get("split") == split
        and not row.get("final")
        and is_number(row.get(key))
        and is_number(row.get(axis))
    }


def train_series(record: RunRecord, key: str, axis: Axis = "epoch") -> dict[int, float]:
    """Return epoch or step -> mean over the epoch of a logged training term, from the log."""
    found: dict[int, list[tuple[int, float]]] = {}
    for row in record.rows("train"):
        if is_number(row.get(key)) and is_number(row.get("epoch")):
            point = (int(row.get("step", 0)), float(row[key]))
            found.setdefault(int(row["epoch"]), []).append(point)
    return {
        (epoch + 1 if axis == "epoch" else max(step for step, _ in points)): math.fsum(
            value for _, value in points
        )
        / len(points)
        for epoch, points in found.items()
    }


def loss_terms(evidence: Evidence) -> list[str]:
    """Return the training terms that any run logged: the task first, the total last."""
    found: dict[str, None] = {}
    for record in evidence.records:
        for row in record.rows("train"):
            found.update(dict.fromkeys(k for k, v in row.items() if is_number(v)))
    terms = [key for key in found if key not in _NOT_A_LOSS]
    return sorted(terms, key=lambda key: (key == "loss", key != "task"))


def is_number(value: Any) -> bool:
    """Whether a logged value is a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)
