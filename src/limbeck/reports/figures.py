"""Figures about answers and cost: calibration, fidelity, classes, quality against cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from limbeck.reports import plots
from limbeck.reports.evidence import Arm, Evidence, TeacherEvidence
from limbeck.reports.formats import COSTS, Metric, number, short_count, show
from limbeck.reports.plots import Plot
from limbeck.reports.predictions import ClassAccuracy, Fidelity, Reliability, hardest


def reliability_plot(found: Reliability, index: int | None, key: str) -> Plot:
    """Return a reliability diagram with the counts of its bins below."""
    num_bins = len(found.counts)
    edges = np.arange(num_bins) / num_bins
    shade = plots.colour(index)
    with plots.drawing(height=300, width=300) as (figure, axes):
        axes.remove()
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        used = found.counts > 0
        upper.plot([0, 1], [0, 1], color=plots.MUTED, lw=1, ls=(0, (4, 3)))
        upper.bar(edges[used], found.accuracy[used], 0.86 / num_bins, align="edge", color=shade,
                  alpha=0.28, lw=0)  # fmt: skip
        upper.plot(
            found.confidence[used], found.accuracy[used], "o", color=shade, ms=5, clip_on=False
        )
        upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share right")
        lower.bar(edges, found.counts, 0.86 / num_bins, align="edge", color=shade, alpha=0.7, lw=0)
        lower.set(xlabel="confidence", ylabel="count")
        lower.set_yticks([0, int(found.counts.max())], ["0", f"{int(found.counts.max()):,}"])
        for one in (upper, lower):
            one.grid(axis="x", visible=False)
        gaps = "; ".join(
            f"confidence {number(100 * c, 0)} %, right {number(100 * a, 0)} %, {n:,} samples"
            for c, a, n in zip(found.confidence, found.accuracy, found.counts, strict=True)
            if n
        )
        svg = plots.to_svg(figure, f"Reliability diagram of {found.label}. {gaps}.", key)
    ece, floor = number(100 * found.ece, 1), number(100 * found.floor, 1)
    within = "within" if found.ece <= found.floor else "above"
    caption = f"ECE {ece} %: {within} the {floor} % that perfect calibration would reach by chance."
    return Plot(svg, found.label, caption)


def fidelity_plot(rows: Sequence[Fidelity]) -> Plot | None:
    """Return who is right, as one stacked bar for each arm."""
    if not rows:
        return None
    names = ("both right", "only the teacher", "only the student", "neither")
    shades = (plots.MUTED, plots.TEACHER, plots.colour(1), plots.MUTED)
    alphas = (0.28, 0.9, 1.0, 0.6)
    described = []
    with plots.drawing(height=56 + 50 * len(rows)) as (figure, axes):
        for i, row in enumerate(reversed(rows)):
            left = 0.0
            for share, shade, alpha in zip(row.right, shades, alphas, strict=True):
                axes.barh(i, 100 * share, 0.42, left=left, color=shade, alpha=alpha, lw=0)
                left += 100 * share
            plots.label_row(axes, row.arm.label, i + 0.4, None)
            texts = [
                f"{name} {number(100 * share, 1)} %"
                for name, share in zip(names, row.right, strict=True)
            ]
            described.append(f"{row.arm.label}: {', '.join(texts)}")
        axes.set_yticks([])
        axes.set_ylim(-0.4, len(rows) - 0.35)
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of test samples (%)")
        svg = plots.to_svg(figure, f"Who is right. {'. '.join(described)}.", "who-is-right")
    legend = tuple(
        plots.Key("■", plots.variable(shade), name, alpha)
        for name, shade, alpha in zip(names, shades, alphas, strict=True)
    )
    return Plot(svg, "Who is right", "Mean over seeds.", legend)


def cost_plot(evidence: Evidence, cost: str) -> Plot | None:
    """Return the main metric against a cost, on a logarithmic axis, teachers included."""
    metric, kind = evidence.metric, COSTS[cost]
    points: list[tuple[str, float, float, float, int | None]] = []
    rows: list[Arm | TeacherEvidence] = [*evidence.finished, *evidence.teachers]
    for row in rows:
        value = row.cost(cost)
        found = row.estimate(metric.key, evidence.split)
        if value and value > 0 and found.num:
            half = found.half_width * metric.scale if found.has_interval else 0.0
            index = row.index if isinstance(row, Arm) else None
            points.append((row.label, value, found.mean * metric.scale, half, index))
    if len(points) < 2 or len({value for _, value, *_ in points}) < 2:
        return None
    with plots.drawing(height=250) as (figure, axes):
        for _, x, y, half, index in points:
            shade = plots.colour(index)
            axes.errorbar([x], [y], yerr=[half] if half else None, fmt=plots.marker(index),
                          color=shade, ms=8, mew=0, elinewidth=1.5)  # fmt: skip
        axes.set_xscale("log")
        xs = [x for _, x, *_ in points]
        axes.set_xlim(min(xs) / (max(xs) / min(xs)) ** 0.12, max(xs) * (max(xs) / min(xs)) ** 0.12)
        axes.set_ylim(*plots.pad([y + s * h for _, _, y, h, _ in points for s in (-1, 1)], 0.12))
        _log_ticks(axes, min(xs), max(xs), kind)
        axes.set_xlabel(kind.label.lower() + (f" ({kind.suffix})" if kind.suffix else ""))
        plots.lay_out(figure)
        _label_points(axes, points)
        described = "; ".join(
            f"{label}: {show(kind, x)} {kind.suffix}, {number(y, 1)}" for label, x, y, *_ in points
        )
        title = f"{metric.label} against {kind.label.lower()}"
        svg = plots.to_svg(figure, f"{title}. {described}.", f"cost-{cost}")
    caption = ""
    if cost == "latency_ms":
        caption = "Measured beside the runs: what equal networks differ by is noise of the clock."
    return Plot(svg, title + (f" ({metric.suffix})" if metric.suffix else ""), caption)


def _log_ticks(axes: plots.Axes, low: float, high: float, kind: Metric) -> None:
    """Label the two ends and the decades between that do not crowd them."""
    from matplotlib.ticker import FixedLocator, NullLocator

    decades = [10.0**k for k in range(-6, 16) if low * 2 < 10.0**k < high / 2]
    ticks = sorted({low, high, *(decades if len(decades) <= 2 else [])})
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    texts = [f"{x:.2g}" if kind.key == "latency_ms" else short_count(x) for x in ticks]
    axes.set_xticks(ticks, texts)


def _label_points(
    axes: plots.Axes, points: Sequence[tuple[str, float, float, float, int | None]]
) -> None:
    """Label points towards the inside of the axes; points of one side are moved apart."""
    low, high = (np.log(v) for v in axes.get_xlim())
    bottom, top = axes.get_ylim()
    pixels = axes.get_window_extent().height / axes.figure.dpi * 72
    for left in (True, False):
        side = [p for p in points if (np.log(p[1]) < (low + high) / 2) == left]
        side.sort(key=lambda p: p[2])
        step = 14 * (top - bottom) / max(pixels, 1)
        heights = plots.spread([p[2] for p in side], step, bottom + step / 2, top - step / 2)
        for (label, x, _, _, index), height in zip(side, heights, strict=True):
            axes.annotate(plots.short(label), (x, height), xytext=(10 if left else -10, 0),
                          textcoords="offset points", ha="left" if left else "right",
                          va="center", color=plots.colour(index),
                          fontweight="bold").set_in_layout(False)  # fmt: skip


def class_plot(rows: Sequence[ClassAccuracy], names: Sequence[str], num: int = 10) -> Plot | None:
    """Return the accuracy of each arm on the hardest classes as a dot plot."""
    if not rows:
        return None
    classes = hardest(rows, num)
    with plots.drawing(height=56 + 24 * len(classes)) as (figure, axes):
        described = []
        for y, k in enumerate(reversed(classes)):
            values = [100 * float(row.accuracy[k]) for row in rows]
            axes.plot([min(values), max(values)], [y, y], color=plots.RULE, lw=2, zorder=1)
            for row, value in zip(rows, values, strict=True):
                axes.plot([value], [y], plots.marker(row.index), color=plots.colour(row.index),
                          ms=8, mew=0, alpha=0.9, clip_on=False)  # fmt: skip
            texts = [f"{r.label} {number(v, 1)}" for r, v in zip(rows, values, strict=True)]
            described.append(f"{names[k]}: {', '.join(texts)}")
        axes.set_yticks(range(len(classes)), [plots.short(names[k]) for k in reversed(classes)])
        for text in axes.get_yticklabels():
            text.set_color(plots.INK)
        axes.set_ylim(-0.7, len(classes) - 0.3)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", visible=True)
        axes.set_xlabel("accuracy (%)")
        svg = plots.to_svg(figure, f"Hardest classes. {'. '.join(described)}.", "classes")
    caption = "Lowest accuracy averaged over the arms: a choice that favours none of them."
    legend = tuple(plots.key(row.label, row.index) for row in rows)
    return Plot(svg, "Hardest classes", caption, legend)
