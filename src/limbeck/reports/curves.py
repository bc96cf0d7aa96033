"""Learning curves and seeds: how the arms got where they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from limbeck.reports import plots
from limbeck.reports.evidence import Arm, Evidence
from limbeck.reports.formats import Metric, metric_of, show
from limbeck.reports.plots import Plot
from limbeck.reports.reading import RunRecord

_NOT_A_LOSS = frozenset({"kind", "epoch", "step", "lr", "split", "stage", "grad_norm", "samples"})


@dataclass(frozen=True)
class Curve:
    """Mean and range over seeds, by epoch (from 1). All arrays ``[epochs]``."""

    epochs: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curve(series: Sequence[Mapping[int, float]]) -> Curve | None:
    """Return mean, lowest and highest of several seeds at the epochs that all of them have."""
    kept = [one for one in series if one]
    shared = sorted(set.intersection(*(set(one) for one in kept))) if kept else []
    if not shared:
        return None
    table = np.array([[one[epoch] for epoch in shared] for one in kept])
    return Curve(np.array(shared) + 1, table.mean(0), table.min(0), table.max(0))


def eval_series(record: RunRecord, key: str, split: str = "validation") -> dict[int, float]:
    """Return epoch -> metric on a split, from the log."""
    return {
        int(row["epoch"]): float(row[key])
        for row in record.rows("eval")
        if row.get("split") == split and _finite(row.get(key)) and _finite(row.get("epoch"))
    }


def train_series(record: RunRecord, key: str) -> dict[int, float]:
    """Return epoch -> mean of a logged training term, from the log."""
    found: dict[int, list[float]] = {}
    for row in record.rows("train"):
        if _finite(row.get(key)) and _finite(row.get("epoch")):
            found.setdefault(int(row["epoch"]), []).append(float(row[key]))
    return {epoch: math.fsum(values) / len(values) for epoch, values in found.items()}


def loss_terms(evidence: Evidence) -> list[str]:
    """Return the training terms that any run logged: the task first, the total last."""
    found: dict[str, None] = {}
    for record in evidence.records:
        for row in record.rows("train"):
            found.update(dict.fromkeys(k for k, v in row.items() if _finite(v)))
    terms = [key for key in found if key not in _NOT_A_LOSS]
    return sorted(terms, key=lambda key: (key == "loss", key != "task"))


def _finite(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def learning_plots(evidence: Evidence, limit: int = 6) -> list[Plot]:
    """Return the validation curve of the main metric, then each training term."""
    found = []
    metric = evidence.metric
    validation = {
        arm.index: [eval_series(run, metric.key) for run in _runs(arm)] for arm in evidence.arms
    }
    plot = _curve_plot(
        evidence, validation, metric, f"{metric.label} on validation", "curve-validation"
    )
    found += [plot] if plot else []
    terms = loss_terms(evidence)
    for i, term in enumerate(terms[:limit]):
        series = {
            arm.index: [train_series(run, term) for run in _runs(arm)] for arm in evidence.arms
        }
        title = "Training loss, weighted sum" if term == "loss" else f"Training term: {term}"
        plot = _curve_plot(evidence, series, metric_of(term), title, f"curve-term-{i}")
        found += [plot] if plot else []
    return found


def _runs(arm: Arm) -> tuple[RunRecord, ...]:
    """Return the runs whose curves are drawn: finished ones, else those still unfinished."""
    return arm.runs or arm.unfinished


def _curve_plot(
    evidence: Evidence,
    series: Mapping[int, Sequence[Mapping[int, float]]],
    metric: Metric,
    title: str,
    key: str,
) -> Plot | None:
    from matplotlib.ticker import MaxNLocator

    curves = [(arm, curve(series[arm.index])) for arm in evidence.arms]
    drawn = [(arm, one) for arm, one in curves if one is not None]
    if not drawn:
        return None
    with plots.drawing(height=230) as (figure, axes):
        last = max(float(one.epochs[-1]) for _, one in drawn)
        first = min(float(one.epochs[0]) for _, one in drawn)
        for arm, one in drawn:
            shade, scale = plots.colour(arm.index), metric.scale
            axes.fill_between(
                one.epochs, one.low * scale, one.high * scale, color=shade, alpha=0.14, lw=0
            )
            axes.plot(one.epochs, one.mean * scale, color=shade, ls=plots.dash(arm.index))
            if len(one.epochs) == 1:
                axes.plot(one.epochs, one.mean * scale, "o", color=shade)
        axes.set_xlim(first - 0.02 * (last - first) - 1e-3, last + 1e-3)
        axes.set_xlabel("epoch")
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
        svg = plots.to_svg(figure, f"{title} by epoch. {described}.", key)
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
    with plots.drawing(height=64 + 46 * len(arms)) as (figure, axes):
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
        for label, value in _teacher_lines(evidence):
            plots.label_line(axes, label, value)
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
