"""Learning curves and seeds: how the arms got where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from limbeck.reports import plots
from limbeck.reports.evidence import Evidence
from limbeck.reports.formats import Metric, metric_of, show
from limbeck.reports.plots import Plot
from limbeck.reports.series import (
    Axis,
    common_axis,
    curve,
    drawn_runs,
    eval_series,
    loss_terms,
    train_series,
)


def learning_plots(evidence: Evidence, limit: int = 6) -> list[Plot]:
    """Return the validation curve of the main metric, then each training term."""
    metric, axis = evidence.metric, common_axis(evidence)
    validation = {
        arm.index: [eval_series(run, metric.key, axis) for run in drawn_runs(arm)]
        for arm in evidence.arms
    }
    title = f"{metric.label} on validation"
    found = [_curve_plot(evidence, validation, metric, title, axis, "curve-validation")]
    for i, term in enumerate(loss_terms(evidence)[:limit]):
        series = {
            arm.index: [train_series(run, term, axis) for run in drawn_runs(arm)]
            for arm in evidence.arms
        }
        title = "Training loss, weighted sum" if term == "loss" else f"Training term: {term}"
        found.append(_curve_plot(evidence, series, metric_of(term), title, axis, f"curve-term-{i}"))
    return [plot for plot in found if plot is not None]


def _curve_plot(
    evidence: Evidence,
    series: Mapping[int, Sequence[Mapping[int, float]]],
    metric: Metric,
    title: str,
    axis: Axis,
    key: str,
) -> Plot | None:
    from matplotlib.ticker import MaxNLocator

    curves = [(arm, curve(series[arm.index])) for arm in evidence.arms]
    drawn = [(arm, one) for arm, one in curves if one is not None]
    if not drawn:
        return None
    with plots.drawing(height=230) as (figure, axes):
        last = max(float(one.x[-1]) for _, one in drawn)
        first = min(float(one.x[0]) for _, one in drawn)
        for arm, one in drawn:
            shade, scale = plots.colour(arm.index), metric.scale
            axes.fill_between(
                one.x, one.low * scale, one.high * scale, color=shade, alpha=0.14, lw=0
            )
            axes.plot(one.x, one.mean * scale, color=shade, ls=plots.dash(arm.index))
            if len(one.x) == 1:
                axes.plot(one.x, one.mean * scale, "o", color=shade)
        axes.set_xlim(first - 0.02 * (last - first) - 1e-3, last + 1e-3)
        axes.set_xlabel("epoch" if axis == "epoch" else "optimiser step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if all((one.low >= 0).all() for _, one in drawn) and axes.get_ylim()[0] < 0:
            axes.set_ylim(bottom=0)
        plots.leave_right(figure, [arm.label for arm, _ in drawn])
        ends = [(arm.label, float(one.mean[-1]) * metric.scale, arm.index) for arm, one in drawn]
        plots.label_ends(axes, ends, last)
        described = "; ".join(
            f"{arm.label} from {show(metric, float(one.mean[0]))} to "
            f"{show(metric, float(one.mean[-1]))}"
            for arm, one in drawn
        )
        svg = plots.to_svg(figure, f"{title} by {axis}. {described}.", key)
    unit = f" ({metric.suffix})" if metric.suffix else ""
    return Plot(svg, f"{title}{unit}", "")


def seeds_plot(evidence: Evidence) -> Plot | None:
    """Return every seed as a dot, mean and interval beside it, the teacher as a line."""
    metric, split = evidence.metric, evidence.split
    arms = [arm for arm in evidence.finished if arm.values(metric.key, split)]
    many = any(len(arm.runs) > 1 for arm in arms)
    if not arms or not (many or len(arms) > 1 or evidence.teachers):
        return None
    from matplotlib.ticker import MaxNLocator

    described = []
    lines = _teacher_lines(evidence)
    tall = 64 + 46 * len(arms) + plots.LINE_LABEL * max(len(lines) - 1, 0)
    with plots.drawing(height=tall) as (figure, axes):
        for row, arm in enumerate(reversed(arms)):
            values = np.array(list(arm.values(metric.key, split).values())) * metric.scale
            found, shade = arm.estimate(metric.key, split), plots.colour(arm.index)
            mark = plots.marker(arm.index)
            if len(values) > 1:
                height = np.full(len(values), row - 0.2)
                axes.plot(values, height, mark, color=shade, alpha=0.5, ms=5, mew=0)
            if found.has_interval:
                ends = [found.low * metric.scale, found.high * metric.scale]
                axes.plot(ends, [row + 0.06] * 2, color=shade, lw=2.5)
            axes.plot([found.mean * metric.scale], [row + 0.06], mark, color=shade, ms=9, mew=0)
            plots.label_row(axes, arm.label, row + 0.36, arm.index)
            described.append(f"{arm.label} {show(metric, found.mean, found.half_width)}")
        for level, (label, value) in enumerate(lines):
            plots.label_line(axes, label, value, level)
            described.append(f"{label} {show(metric, value / metric.scale)}")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_yticks([])
        axes.set_ylim(-0.5, len(arms) - 0.4)
        axes.grid(axis="x", visible=True)
        axes.set_xlabel(metric.label + (f" ({metric.suffix})" if metric.suffix else ""))
        svg = plots.to_svg(
            figure, f"{metric.label} of every seed. {'; '.join(described)}.", "seeds"
        )
    caption = "One seed an arm, so no intervals."
    if many:
        caption = "Small marks: single seeds. Large mark and bar: mean and 95 % t-interval."
    return Plot(svg, f"{metric.label}, every seed" if many else metric.label, caption)


def _teacher_lines(evidence: Evidence) -> list[tuple[str, float]]:
    found = []
    for teacher in evidence.teachers[:3]:
        value = teacher.estimate(evidence.metric.key, evidence.split)
        if value.num:
            found.append((teacher.label, value.mean * evidence.metric.scale))
    return found
