"""How teachers rescale gradients, sample by sample: the probe of Tang et al. (2002.03532)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from limbeck.diagnostics.rescaling import Rescaling, rescaling_between
from limbeck.errors import DataError
from limbeck.reports import plots
from limbeck.reports.evidence import Arm
from limbeck.reports.formats import number
from limbeck.reports.plots import Plot
from limbeck.reports.predictions import Answers, answers
from limbeck.reports.reading import read_run
from limbeck.reports.tables import Cell, Column, Row, Table

SHOWN = 400
"""Samples in a scatter plot; more are thinned evenly."""
LOWEST = -1.0
"""Weights below this are drawn at the edge: where the student is sure they can be any number."""


def rescaling(found: Answers, *, share: float = 1.0, temperature: float = 1.0) -> Rescaling:
    """Return how a teacher rescales each labelled sample's gradient.

    Args:
        found: logits of student and teacher, and targets.
        share: λ, the teacher's share of the loss, in [0, 1]; 1: the knowledge term alone.
        temperature: of both sides, above 0.

    Raises:
        DataError: there are no answers of a teacher.
    """
    if found.teacher is None:
        raise DataError("no answers of a teacher: a gradient is rescaled by a teacher only")
    return rescaling_between(
        found.student, found.teacher, found.targets, share=share, temperature=temperature
    )


def probe_run(folder: Path | str, *, share: float = 1.0, temperature: float = 1.0) -> Rescaling:
    """Return how a finished run's teacher rescales the gradients of its test samples.

    Args:
        folder: the run's.
        share: λ, the teacher's share of the loss, in [0, 1].
        temperature: of both sides, above 0.

    Raises:
        DataError: no run there, no classification, or none with a teacher.
    """
    found = answers(read_run(Path(folder)))
    if found is None:
        raise DataError(f"{folder}: holds no labelled answers to a classification task")
    return rescaling(found, share=share, temperature=temperature)


def rescaling_of(arm: Arm, found: Sequence[Answers]) -> Rescaling | None:
    """Return the probe of an arm, all seeds together; None where it had no teacher of its own."""
    own = [one for one in found if one.teacher is not None and not one.borrowed]
    parts = [rescaling(one) for one in own]
    if not parts:
        return None
    names = ("weights", "teacher", "student")
    return Rescaling(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def rescaling_table(rows: Sequence[tuple[Arm, Rescaling]]) -> Table:
    """Return quartiles of the weights, one row for each arm."""
    columns = (
        Column("arm", "Arm", numeric=False),
        Column("lower", "Lower quartile"),
        Column("median", "Median"),
        Column("upper", "Upper quartile"),
        Column("negative", "Below 0, %"),
        Column("rank_correlation", "Rank correlation"),
    )
    body = []
    for arm, found in rows:
        values = [found.quantile(share) for share in (0.25, 0.5, 0.75)]
        cells = [Cell(number(value, 3), value) for value in values]
        below = Cell(number(100 * found.negative, 1), found.negative)
        order = Cell(number(found.rank_correlation, 2), found.rank_correlation)
        body.append(Row((Cell(arm.label), *cells, below, order)))
    notes = (
        "Weights of the knowledge term alone, at temperature 1, on the test samples.",
        "Rank correlation (Spearman's) is that of the weight and the teacher's probability of the"
        " label.",
    )
    return Table(columns, tuple(body), "How the teacher rescales gradients", notes)


def rescaling_plot(arm: Arm, found: Rescaling) -> Plot:
    """Return the weights against the teacher's probability of the label."""
    step = max(1, -(-len(found.weights) // SHOWN))
    x = found.teacher[::step]
    y = np.clip(found.weights[::step], LOWEST, 1.0)
    with plots.drawing(height=250) as (figure, axes):
        axes.axhline(0, color=plots.MUTED, lw=1, ls=(0, (4, 3)))
        axes.plot(x, y, plots.marker(arm.index), color=plots.colour(arm.index), ms=4, mew=0,
                  alpha=0.5, clip_on=False)  # fmt: skip
        axes.set(xlim=(0, 1), ylim=(LOWEST - 0.05, 1.05))
        axes.set(xlabel="teacher's probability of the label", ylabel="weight of the gradient")
        numbers = ", ".join(number(found.quantile(share), 2) for share in (0.25, 0.5, 0.75))
        order = number(found.rank_correlation, 2)
        text = f"Gradient weights of {arm.label}: quartiles {numbers}, rank correlation {order}."
        svg = plots.to_svg(figure, text, f"rescaling-{arm.index}")
    thinned = f" One sample in {step} is drawn." if step > 1 else ""
    lowest = number(LOWEST, 0)
    caption = (
        f"Quartiles {numbers}; rank correlation {order}. Weights below {lowest} are drawn at"
        f" {lowest}.{thinned}"
    )
    return Plot(svg, arm.label, caption)
