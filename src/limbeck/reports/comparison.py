"""The table of a report: arms and teachers against quality and cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from limbeck.reports.evidence import Arm, Evidence, TeacherEvidence, gather
from limbeck.reports.formats import Metric, number, show, show_difference
from limbeck.reports.reading import read_runs
from limbeck.reports.tables import Cell, Column, Row, Table
from limbeck.studies.statistics import Comparison, Estimate

_RANKS = {"parameters": 0, "agreement": 2, "latency_ms": 2, "ece": 3, "nll": 3}
"""Importance of columns where room is short; see :class:`limbeck.reports.tables.Column`."""


def comparison_table(
    runs: Sequence[Path | str],
    *,
    baseline: str | None = None,
    metric: str | None = None,
    smallest_effect: float | None = None,
) -> Table:
    """Return the table that compares the arms among ``runs``: seeds, quality, differences, cost.

    Args:
        runs: run folders, or folders of run folders.
        baseline: arm to compare with; None: the first without a teacher.
        metric: main metric; None: accuracy, map, f1, r2 … whichever was measured.
        smallest_effect: smallest improvement that matters, in the metric's kept unit (0.01 is one
            point of accuracy); adds verdicts.

    Raises:
        DataError: a run cannot be read, or an argument names nothing among them.
    """
    records = read_runs(runs)
    evidence = gather(records, baseline=baseline, metric=metric, smallest_effect=smallest_effect)
    return evidence_table(evidence)


def evidence_table(evidence: Evidence) -> Table:
    """Return the table of gathered evidence; teachers first, then the arms in order."""
    columns = _columns(evidence)
    rows = [_teacher_row(teacher, columns, evidence) for teacher in evidence.teachers]
    rows += [_arm_row(arm, columns, evidence) for arm in evidence.arms]
    return Table(columns, tuple(rows), _caption(evidence), _notes(evidence))


def _columns(evidence: Evidence) -> tuple[Column, ...]:
    columns = [Column("arm", "Arm", numeric=False), Column("seeds", "Seeds")]
    for metric in evidence.quality():
        rank = 0 if metric is evidence.metric else _RANKS.get(metric.key, 4)
        columns.append(Column(metric.key, metric.heading, rank=rank))
        if metric is evidence.metric and evidence.baseline is not None:
            unit = "points" if metric.unit == "percent" else metric.suffix
            label = f"Δ{f', {unit}' if unit else ''}"  # the notes say to which arm
            columns.append(Column("difference", label))
            columns.append(Column("p_holm", "p (Holm)", rank=1))
            if evidence.smallest_effect is not None:
                columns.append(Column("verdict", "Verdict", numeric=False))
    columns += [
        Column(metric.key, metric.heading, rank=_RANKS.get(metric.key, 4))
        for metric in evidence.costs()
    ]
    return tuple(columns)


def _arm_row(arm: Arm, columns: Sequence[Column], evidence: Evidence) -> Row:
    comparison = evidence.comparisons.get(arm.label)
    cells = []
    metrics = {metric.key: metric for metric in evidence.quality()}
    costs = {metric.key: metric for metric in evidence.costs()}
    for column in columns:
        if column.key in metrics:
            found = arm.estimate(column.key, evidence.split)
            cells.append(estimate_cell(metrics[column.key], found))
        elif column.key in costs:
            value = arm.cost(column.key)
            cells.append(Cell(show(costs[column.key], value), value))
        elif column.key == "arm":
            cells.append(Cell(arm.label))
        elif column.key == "seeds":
            text = str(len(arm.runs))
            if arm.unfinished:
                text += f" (+{len(arm.unfinished)} unfinished)"
            cells.append(Cell(text, len(arm.runs)))
        else:
            cells.append(_comparison_cell(column.key, comparison, evidence.metric))
    kind = "baseline" if arm is evidence.baseline else "arm"
    return Row(tuple(cells), kind)


def _teacher_row(teacher: TeacherEvidence, columns: Sequence[Column], evidence: Evidence) -> Row:
    cells = []
    metrics = {metric.key: metric for metric in evidence.quality()}
    costs = {metric.key: metric for metric in evidence.costs()}
    for column in columns:
        if column.key in metrics:
            found = teacher.estimate(column.key, evidence.split)
            cells.append(estimate_cell(metrics[column.key], found))
        elif column.key in costs:
            value = teacher.cost(column.key)
            cells.append(Cell(show(costs[column.key], value), value))
        elif column.key == "arm":
            same = teacher.label.lower() == "teacher"
            cells.append(Cell(teacher.label if same else f"{teacher.label} (teacher)"))
        else:
            cells.append(Cell(""))
    return Row(tuple(cells), "teacher")


def estimate_cell(metric: Metric, found: Estimate) -> Cell:
    """Return the cell of a mean with its interval, or of a single value without one."""
    if found.num == 0:
        return Cell("–")
    half = found.half_width
    return Cell(show(metric, found.mean, half), found.mean, half if math.isfinite(half) else None)


def _comparison_cell(key: str, comparison: Comparison | None, metric: Metric) -> Cell:
    if comparison is None:
        return Cell("")
    difference = comparison.difference
    if key == "difference":
        half = difference.half_width
        text = show_difference(metric, difference.mean, half)
        return Cell(text, difference.mean, half if math.isfinite(half) else None)
    if key == "p_holm":
        return Cell(show_p(comparison.p_holm), comparison.p_holm)
    return Cell(comparison.verdict or "")


def show_p(p: float) -> str:
    """Return a p-value as text: three decimals, and never "0.000".

    >>> show_p(0.0004), show_p(0.0312)
    ('< 0.001', '0.031')
    """
    return "< 0.001" if p < 0.001 else number(p, 3)


def _caption(evidence: Evidence) -> str:
    split = "Test set" if evidence.split == "test" else "Validation set (no test metrics)"
    if any(len(arm.runs) > 1 for arm in evidence.arms):
        return f"{split}: mean over seeds ± half of the 95 % t-interval"
    return f"{split}: one seed an arm, so no intervals over seeds"


def _notes(evidence: Evidence) -> tuple[str, ...]:
    notes = []
    if evidence.baseline is not None:
        notes.append(
            f"Δ: mean difference to {evidence.baseline.label}, paired by seed; p from the paired"
            " t-test, Holm-corrected over the arms."
        )
    if evidence.smallest_effect is not None:
        effect = show(evidence.metric, evidence.smallest_effect)
        unit = " points" if evidence.metric.unit == "percent" else ""
        notes.append(f"Verdict: against a smallest effect of {effect}{unit}, set beforehand.")
    return tuple(notes)
