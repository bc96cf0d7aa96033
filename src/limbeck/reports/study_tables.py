"""The tables of a study: what the claims came to, how the arms did, what was tried."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from limbeck.reports.comparison import estimate_cell, show_p
from limbeck.reports.formats import METRICS, Metric, metric_of, number, show, show_difference
from limbeck.reports.tables import Cell, Column, Row, Table
from limbeck.studies.results import ArmResults, Judged, StudyResults

_BESIDE = ("nll", "ece", "agreement")
"""Metrics that stand in the arms' table beside the study's own, where they were measured."""


def claims_table(results: StudyResults, *, in_words: bool = True) -> Table:
    """Return one row for every comparison: difference, interval, Holm's p, verdict.

    Args:
        results: the study.
        in_words: whether a claim is what it says; else its name, which is shorter.
    """
    columns = (
        Column("claim", "Claim", numeric=False),
        Column("verdict", "Verdict", numeric=False),
        Column("arm", "Arm", numeric=False, rank=3),
        Column("baseline", "Compared with", numeric=False, rank=3),
        Column("metric", "Metric", numeric=False, rank=5),
        Column("seeds", "Seeds", rank=4),
        Column("difference", "Difference"),
        Column("smallest_effect", "Matters from", rank=2),
        Column("p_holm", "p (Holm)", rank=1),
    )
    rows = tuple(_claim_row(one, in_words) for one in results.judged)
    return Table(columns, rows, "Claims: mean difference ± half of the 95 % t-interval", NOTES)


NOTES = (
    "Differences are paired by seed (points, where the metric is a percentage); p from the paired "
    "t-test, Holm-corrected over all comparisons of the study.",
    "holds: the interval is above zero, Holm's p is below 0.05, and an effect that matters is "
    "within or below it. does not hold: the whole interval is below an effect that matters. "
    "cannot be told: anything else. Of “not worse” the margin takes the place of zero.",
)


def _claim_row(one: Judged, in_words: bool) -> Row:
    metric, difference = metric_of(one.claim.metric), one.comparison.difference
    half = difference.half_width
    margin = -one.claim.smallest_effect if one.claim.direction == "not worse" else None
    effect = one.claim.smallest_effect if margin is None else margin
    return Row(
        (
            Cell(one.claim.says if in_words else one.claim_name),
            Cell(one.verdict),
            Cell(one.arm),
            Cell(one.baseline),
            Cell(metric.label),
            Cell(str(len(one.comparison.seeds)), len(one.comparison.seeds)),
            Cell(
                show_difference(metric, difference.mean, half),
                _finite(difference.mean),
                _finite(half),
            ),
            Cell(_effect(metric, effect), effect),
            Cell(show_p(one.comparison.p_holm), _finite(one.comparison.p_holm)),
        )
    )


def _effect(metric: Metric, effect: float) -> str:
    """Return the smallest effect with its sign: towards better, or the margin of "not worse"."""
    signed = -effect if metric.higher_is_better is False else effect
    return show_difference(metric, signed)


def arms_table(results: StudyResults) -> Table:
    """Return one row for every arm at every place of the grid."""
    main = metric_of(results.plan.study.metric)
    beside = [
        metric
        for key, metric in METRICS.items()
        if key in _BESIDE and key != main.key and any(arm.values(key) for arm in results.arms)
    ]
    columns = (
        Column("arm", "Arm", numeric=False),
        Column("seeds", "Seeds"),
        Column(main.key, main.heading),
        Column("teacher", f"Teacher’s, {main.suffix}".rstrip(", "), rank=2),
        *(Column(metric.key, metric.heading, rank=3) for metric in beside),
        Column("setting", "Chosen setting", numeric=False, rank=1),
        Column("steps", "Steps", rank=3),
        Column("seconds", "Seconds", rank=4),
    )
    rows = tuple(_arm_row(arm, main, beside) for arm in results.arms)
    caption = "Arms: mean over seeds on the test set ± half of the 95 % t-interval"
    return Table(columns, rows, caption, _arm_notes(results))


def _arm_row(arm: ArmResults, main: Metric, beside: list[Metric]) -> Row:
    teacher = arm.teacher(main.key)
    steps, seconds = arm.middle("steps"), arm.middle("seconds")
    setting = "none: every trial failed" if arm.failed and not arm.chosen else "–"
    cells = (
        Cell(arm.label),
        Cell(str(len(arm.summaries)), len(arm.summaries)),
        estimate_cell(main, arm.estimate(main.key)),
        Cell("" if teacher is None else show(main, teacher), teacher),
        *(estimate_cell(metric, arm.estimate(metric.key)) for metric in beside),
        Cell(arm.chosen.label if arm.chosen else setting),
        Cell("–" if steps is None else f"{steps:,.0f}", steps),
        Cell("–" if seconds is None else number(seconds, 1), seconds),
    )
    return Row(cells, "baseline" if arm.planned.arm.reference else "arm")


def _arm_notes(results: StudyResults) -> tuple[str, ...]:
    study, notes = results.plan.study, []
    trials = len(results.plan.arms[0].trials)
    if trials > 1:
        notes.append(
            f"Every arm had {trials} trials on {_count(len(study.tuning.seeds), 'seed')}; the best "
            f"mean validation {metric_of(study.tuning.metric).phrase} went on. Test metrics chose "
            "nothing."
        )
    if results.missing:
        gaps = "; ".join(
            f"{label} ({', '.join(map(str, seeds))})" for label, seeds in results.missing.items()
        )
        notes.append(f"Seeds still missing: {gaps}.")
    if results.failed:
        told = "; ".join(f"{label}: {reason}" for label, reason in results.failed.items())
        notes.append(f"Failed, and not counted: {told}.")
    return tuple(notes)


def trials_table(results: StudyResults) -> Table | None:
    """Return what was tried and how it did on validation; None where nothing was tuned."""
    if not results.plan.is_tuned:
        return None
    metric = metric_of(results.plan.study.tuning.metric)
    columns = (
        Column("arm", "Arm", numeric=False),
        Column("setting", "Setting", numeric=False),
        Column("validation", f"Validation {metric.heading}"),
        Column("chosen", "Chosen", numeric=False),
    )
    rows = [
        Row(
            (
                Cell(arm.label),
                Cell(one.trial.label),
                Cell(show(metric, one.mean) if one.counts else "–", _finite(one.mean)),
                Cell("chosen" if one.trial is arm.chosen else one.reason),
            )
        )
        for arm in results.arms
        for one in arm.trials
    ]
    return Table(columns, tuple(rows), "Trials: mean over the tuning seeds")


def _count(num: int, word: str) -> str:
    return f"{num} {word}" if num == 1 else f"{num} {word}s"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def verdict_counts(results: StudyResults) -> Mapping[str, int]:
    """Return how many comparisons came to each verdict."""
    counts: dict[str, int] = {}
    for one in results.judged:
        counts[one.verdict] = counts.get(one.verdict, 0) + 1
    return counts


def study_headline(results: StudyResults) -> str:
    """Return the one sentence that stands above everything."""
    if not results.has_runs:
        return "No run is finished yet."
    if not results.judged:
        return f"{_count(len(results.arms), 'arm')}, no claim."
    counts = dict(verdict_counts(results))
    total = sum(counts.values())
    parts: list[Any] = []
    for verdict, verbs in (
        ("holds", ("holds", "hold")),
        ("does not hold", ("does not", "do not")),
        ("cannot be told", ("cannot be told", "cannot be told")),
    ):
        if num := counts.pop(verdict, 0):
            parts.append(f"{num} {verbs[num > 1]}")
    if left := sum(counts.values()):
        parts.append(f"{left} without a verdict")
    return f"Of {_count(total, 'claim')}, {', '.join(parts)}."
