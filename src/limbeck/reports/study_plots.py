"""Figures of a study: every difference with its interval, teachers and students, every seed."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.reports import plots
from limbeck.reports.curves import seeds_plot
from limbeck.reports.evidence import Arm, Evidence
from limbeck.reports.formats import metric_of, show, show_difference
from limbeck.reports.plots import Plot
from limbeck.reports.reading import read_run
from limbeck.reports.study_tables import distinct_arms
from limbeck.studies.relations import Taught
from limbeck.studies.results import Judged, StudyResults

_COLOURS = {"holds": 1, "does not hold": 2}


def study_evidence(results: StudyResults) -> Evidence:
    """Return the study's arms in the form that the report's figures are drawn from.

    References are grey; the other arms have the report's colours in their order.
    """
    arms: list[Arm] = []
    plain, coloured = 0, 0
    for label, one in distinct_arms(results):
        if one.planned.arm.reference:
            index, plain = plain * plots.NUM_COLOURS, plain + 1
        else:
            coloured += 1
            index = coloured + coloured // plots.NUM_COLOURS
        runs = tuple(read_run(one.folders[seed]) for seed in sorted(one.folders))
        arms.append(Arm(label, index, runs))
    return Evidence(
        records=tuple(run for arm in arms for run in arm.runs),
        arms=tuple(arm for arm in arms if arm.runs),
        teachers=(),
        metric=metric_of(results.plan.study.metric),
        split="test",
        baseline=None,
        comparisons={},
    )


def difference_plots(results: StudyResults) -> list[Plot]:
    """Return every comparison as a mark with its interval; one figure for each metric."""
    found: dict[str, list[Judged]] = {}
    for one in results.judged:
        if one.comparison.difference.num:
            found.setdefault(one.claim.metric, []).append(one)
    return [_difference_plot(metric, ones) for metric, ones in found.items()]


def _difference_plot(key: str, judged: Sequence[Judged]) -> Plot:
    from matplotlib.ticker import MaxNLocator

    metric, described = metric_of(key), []
    with plots.drawing(height=64 + 46 * len(judged)) as (figure, axes):
        axes.axvline(0, color=plots.MUTED, lw=1.2)
        for row, one in enumerate(reversed(judged)):
            found = one.comparison.difference
            index = _COLOURS.get(one.verdict, 0)
            shade, sign = plots.colour(index), -1 if metric.higher_is_better is False else 1
            effect = sign * one.claim.smallest_effect * metric.scale
            if one.claim.direction == "not worse":
                effect = -effect
            axes.plot([effect] * 2, [row - 0.22, row + 0.22], color=plots.INK, lw=1.2, ls=":")
            if found.has_interval:
                ends = [found.low * metric.scale, found.high * metric.scale]
                axes.plot(ends, [row, row], color=shade, lw=2.5)
            axes.plot(
                [found.mean * metric.scale], [row], plots.marker(index), color=shade, ms=8, mew=0
            )
            plots.label_row(axes, f"{one.arm} − {one.baseline}", row + 0.3, index)
            described.append(
                f"{one.arm} minus {one.baseline} "
                f"{show_difference(metric, found.mean, found.half_width)}, {one.verdict}"
            )
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_yticks([])
        axes.set_ylim(-0.5, len(judged) - 0.4)
        axes.grid(axis="x", visible=True)
        unit = " (points)" if metric.unit == "percent" else ""
        axes.set_xlabel(f"difference in {metric.phrase}{unit}")
        description = f"Differences in {metric.phrase}. {'; '.join(described)}."
        svg = plots.to_svg(figure, description, f"differences-{key}")
    legend = tuple(
        plots.key(verdict, index) for verdict, index in (*_COLOURS.items(), ("cannot be told", 0))
    )
    effects = sorted({show(metric, one.claim.smallest_effect) for one in judged})
    caption = (
        "Mean difference and 95 % t-interval, paired by seed. Dotted: the smallest effect that "
        f"matters, or the margin of “not worse” ({', '.join(effects)}), set beforehand."
    )
    return Plot(svg, f"Differences in {metric.phrase}", caption, legend)


def teacher_plots(results: StudyResults) -> list[Plot]:
    """Return a figure for each property of teachers that a relation is about."""
    found: dict[tuple[str, str, str], tuple[Taught, ...]] = {}
    for one in results.related:
        names = (one.relate.property, one.relate.given, one.relate.rather_than)
        for name in filter(None, names):
            found.setdefault((name, one.claim.metric, one.relate.arm), one.taught)
    return [_teacher_plot(*key, taught) for key, taught in found.items() if taught]


def _teacher_plot(name: str, key: str, arm: str, taught: Sequence[Taught]) -> Plot:
    """Draw a point for each teacher: its property, and how its students did."""
    from matplotlib.ticker import MaxNLocator

    owned, metric = metric_of(name), metric_of(key)
    with plots.drawing() as (figure, axes):
        x = [one.teacher[name] * owned.scale for one in taught]
        y = [one.students[key] * metric.scale for one in taught]
        axes.plot(x, y, "o", color=plots.colour(1), ms=7, mew=0, alpha=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(visible=True)
        unit = f" ({owned.suffix})" if owned.suffix else ""
        axes.set_xlabel(f"teacher’s {owned.phrase}{unit}")
        axes.set_ylabel(f"students’ {metric.phrase}")
        said = "; ".join(
            f"{one.label} {show(owned, one.teacher[name])}, {show(metric, one.students[key])}"
            for one in taught
        )
        described = f"Teacher’s {owned.phrase} and {metric.phrase} of its students. {said}."
        svg = plots.to_svg(figure, described, f"teachers-{name}-{key}-{arm}")
    title = f"Teacher’s {owned.phrase} and students’ {metric.phrase}, {arm}"
    return Plot(svg, title, "A point is a teacher, on the test part; students: mean over seeds.")


def every_seed(results: StudyResults) -> Plot | None:
    """Return every seed of every arm as a dot, mean and interval beside it."""
    evidence = study_evidence(results)
    return seeds_plot(evidence) if evidence.records else None
