"""The tables of a study: what the claims came to, how the arms did, what was tried."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from limbeck.reports.comparison import estimate_cell, show_p
from limbeck.reports.formats import METRICS, Metric, metric_of, number, show, show_difference
from limbeck.reports.tables import Cell, Column, Row, Table
from limbeck.studies import properties
from limbeck.studies.relations import Related
from limbeck.studies.results import ArmResults, Judged, StudyResults

_BESIDE = ("nll", "ece", "member_accuracy", "disagreement", "agreement")
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


def relations_table(results: StudyResults, *, in_words: bool = True) -> Table | None:
    """Return one row for every relation between teachers and students; None without any.

    Args:
        results: the study.
        in_words: whether a claim is what it says; else its name, which is shorter.
    """
    if not results.related:
        return None
    columns = (
        Column("claim", "Claim", numeric=False),
        Column("verdict", "Verdict", numeric=False),
        Column("statistic", "Statistic", numeric=False, rank=2),
        Column("arm", "Students", numeric=False, rank=3),
        Column("teachers", "Teachers", rank=4),
        Column("value", "Value"),
        Column("interval", "95 % interval", numeric=False),
        Column("smallest_effect", "Matters from", rank=3),
        Column("p_holm", "p (Holm)", rank=1),
    )
    rows = tuple(_relation_row(one, in_words) for one in results.related)
    caption = "Teachers: what goes with how their students do, a point for each teacher"
    return Table(columns, rows, caption, RELATION_NOTES)


RELATION_NOTES = (
    "Positive where better goes with better: a correlation with the calibration error is that with "
    "its negative. Teachers are measured on the test part, students are means over seeds. "
    "Intervals and p are percentiles over resampled teachers, p Holm-corrected over these claims.",
)


def _relation_row(one: Related, in_words: bool) -> Row:
    found, relate = one.association.found, one.relate
    return Row(
        (
            Cell(one.claim.says if in_words else relate.claim),
            Cell(one.verdict),
            Cell(_statistic(one)),
            Cell(relate.arm),
            Cell(str(found.num), found.num),
            Cell(_plus(found.mean), _finite(found.mean)),
            Cell(f"{_plus(found.low)} to {_plus(found.high)}" if found.has_interval else "–"),
            Cell(_plus(one.claim.smallest_effect), one.claim.smallest_effect),
            Cell(show_p(one.p_holm), _finite(one.p_holm)),
        )
    )


def _statistic(one: Related) -> str:
    """Say in a few words what was worked out."""
    relate = one.relate
    phrase, students = metric_of(relate.property).phrase, metric_of(one.claim.metric).phrase
    if relate.rather_than:
        return f"R² of {phrase} − R² of {metric_of(relate.rather_than).phrase}, on {students}"
    given = f" given {metric_of(relate.given).phrase}" if relate.given else ""
    return f"r of {phrase} and {students}{given}"


def _plus(value: float) -> str:
    text = number(value, 2)
    return f"+{text}" if value > 0 else text


def teachers_table(results: StudyResults) -> Table | None:
    """Return what each teacher of a relation is like and how its students did; None without any."""
    taught = {one.label: one for related in results.related for one in related.taught}
    if not taught:
        return None
    main = metric_of(results.plan.study.metric)
    known = [metric_of(name) for name in properties.HIGHER_IS_BETTER]
    columns = (
        Column("teacher", "Students of", numeric=False),
        Column("students", f"Students’ {main.heading}"),
        *(Column(one.key, f"Teacher’s {one.heading}") for one in known),
    )
    rows = tuple(
        Row(
            (
                Cell(label),
                Cell(show(main, one.students.get(main.key)), one.students.get(main.key)),
                *(Cell(show(m, one.teacher[m.key]), one.teacher[m.key]) for m in known),
            )
        )
        for label, one in taught.items()
    )
    return Table(columns, rows, "Teachers on the test part, and the mean of their students")


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
        Column("samples", "Samples seen", rank=4),
        Column("seconds", "Seconds", rank=4),
    )
    rows = tuple(_arm_row(label, arm, main, beside) for label, arm in distinct_arms(results))
    caption = "Arms: mean over seeds on the test set ± half of the 95 % t-interval"
    return Table(columns, rows, caption, _arm_notes(results))


def distinct_arms(results: StudyResults) -> list[tuple[str, ArmResults]]:
    """Return (label, arm) of what differs: an arm that no axis changes stands once for all places.

    Such an arm (no teacher, on an axis of teachers) is run once and read at every place.
    """
    found: dict[tuple[str, str], list[ArmResults]] = {}
    for arm in results.arms:
        trials = ",".join(trial.run(0).digest for trial in arm.planned.trials)
        found.setdefault((arm.planned.name, trials), []).append(arm)
    return [(_shared_label(arms), arms[0]) for arms in found.values()]


def _shared_label(arms: list[ArmResults]) -> str:
    """Return the arm's name and what its places in the grid have in common."""
    first, *others = (arm.planned.cell for arm in arms)
    common = [o for axis, o in first.items() if all(cell[axis] == o for cell in others)]
    return arms[0].planned.name + (f" @ {', '.join(common)}" if common else "")


def _arm_row(label: str, arm: ArmResults, main: Metric, beside: list[Metric]) -> Row:
    teacher = arm.teacher(main.key)
    steps, seconds = arm.middle("steps"), arm.middle("seconds")
    samples = arm.middle("samples_seen")
    setting = "none: every trial failed" if arm.failed and not arm.chosen else "–"
    cells = (
        Cell(label),
        Cell(str(len(arm.summaries)), len(arm.summaries)),
        estimate_cell(main, arm.estimate(main.key)),
        Cell("" if teacher is None else show(main, teacher), teacher),
        *(estimate_cell(metric, arm.estimate(metric.key)) for metric in beside),
        Cell(arm.chosen.label if arm.chosen else setting),
        Cell("–" if steps is None else f"{steps:,.0f}", steps),
        Cell("–" if samples is None else f"{samples:,.0f}", samples),
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
                Cell(label),
                Cell(one.trial.label),
                Cell(show(metric, one.mean) if one.counts else "–", _finite(one.mean)),
                Cell("chosen" if one.trial is arm.chosen else one.reason),
            )
        )
        for label, arm in distinct_arms(results)
        for one in arm.trials
    ]
    return Table(columns, tuple(rows), "Trials: mean over the tuning seeds")


def _count(num: int, word: str) -> str:
    return f"{num} {word}" if num == 1 else f"{num} {word}s"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def verdict_counts(results: StudyResults) -> Mapping[str, int]:
    """Return how many comparisons and relations came to each verdict."""
    counts: dict[str, int] = {}
    verdicts = [one.verdict for one in results.judged] + [one.verdict for one in results.related]
    for verdict in verdicts:
        counts[verdict] = counts.get(verdict, 0) + 1
    return counts


def study_headline(results: StudyResults) -> str:
    """Return the one sentence that stands above everything."""
    if not results.has_runs:
        return "No run is finished yet."
    if not results.judged and not results.related:
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
