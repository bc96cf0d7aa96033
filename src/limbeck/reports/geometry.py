"""Which classes the students' last layers hold alike, beside the data's own hierarchy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from limbeck.diagnostics.class_geometry import ClassGeometry, class_geometry
from limbeck.errors import LimbeckError
from limbeck.reports import plots
from limbeck.reports.comparison import estimate_cell
from limbeck.reports.evidence import Arm, Evidence
from limbeck.reports.formats import Metric, number
from limbeck.reports.plots import Plot
from limbeck.reports.reading import RunRecord
from limbeck.reports.tables import Cell, Column, Row, Table
from limbeck.studies.statistics import estimate

MAX_MAPS = 3
"""Maps on a page; the table has the other arms."""
MAX_SIDE = 24
"""Rows of a map; with more classes a cell is the mean over two superclasses."""
_COSINE = Metric("cosine", "Cosine", None)


@dataclass(frozen=True)
class GeometrySection:
    """What last layers add to a page; empty where the data know no superclasses.

    Attributes:
        plots: maps of cosines, one for each of a few arms.
        table: mean cosines within and across superclasses, for all arms.
    """

    plots: tuple[Plot, ...] = ()
    table: Table | None = None


def geometry_section(evidence: Evidence) -> GeometrySection:
    """Return what the saved students' last layers say of classes."""
    found = [(arm, geometries_of(arm)) for arm in evidence.finished]
    found = [(arm, parts) for arm, parts in found if parts]
    if not found:
        return GeometrySection()
    drawn = [geometry_plot(arm, parts[0]) for arm, parts in found[:MAX_MAPS]]
    return GeometrySection(
        plots=tuple(plot for plot in drawn if plot is not None), table=geometry_table(found)
    )


def geometries_of(arm: Arm) -> list[ClassGeometry]:
    """Return the class geometry of each of an arm's students that can be read, by seed."""
    found = (geometry_of(run) for run in arm.runs)
    return [one for one in found if one is not None]


def geometry_of(record: RunRecord) -> ClassGeometry | None:
    """Return the class geometry of a run's student; None where no superclasses are known.

    None too where the student has no last layer that can be read, or is code that is not
    installed.
    """
    from limbeck.models import load_model

    if not record.superclasses:
        return None
    named = {name: torch.tensor(groups) for name, groups in record.superclasses.items()}
    try:
        return class_geometry(load_model(record.path / "student"), named)
    except LimbeckError:
        return None


def geometry_table(rows: Sequence[tuple[Arm, Sequence[ClassGeometry]]]) -> Table:
    """Return mean cosines over seeds, one row for each arm and hierarchy."""
    columns = (
        Column("arm", "Arm", numeric=False),
        Column("hierarchy", "Superclasses", numeric=False),
        Column("within", "Within"),
        Column("across", "Across"),
        Column("gap", "Difference"),
    )
    body = []
    for arm, parts in rows:
        for name in parts[0].superclasses:
            pairs = [(one.within(name), one.across(name)) for one in parts]
            values = ([w for w, _ in pairs], [a for _, a in pairs], [w - a for w, a in pairs])
            cells = [
                estimate_cell(_COSINE, estimate(v for v in column if math.isfinite(v)))
                for column in values
            ]
            body.append(Row((Cell(arm.label), Cell(name), *cells)))
    note = "Mean cosine of the weights of two classes, of one superclass and of two; over seeds."
    return Table(columns, tuple(body), "Cosines of classes in the last layer", (note,))


def geometry_plot(arm: Arm, found: ClassGeometry) -> Plot | None:
    """Return the map of cosines, classes ordered by the first hierarchy; None where too large."""
    name = next(iter(found.superclasses))
    groups = found.superclasses[name].numpy()
    values, ends, what = cells_of(found.cosines.numpy(), groups)
    side = len(values)
    if side > MAX_SIDE:
        return None
    with plots.drawing(height=300, width=300) as (figure, axes):
        _draw(axes, values, plots.colour(arm.index))
        for end in ends:
            axes.axhline(end, color=plots.MUTED, lw=0.8)
            axes.axvline(end, color=plots.MUTED, lw=0.8)
        axes.set(xlim=(0, side), ylim=(side, 0), aspect="equal", xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.set(xlabel=what, ylabel=what)
        numbers = (number(found.within(name), 2), number(found.across(name), 2))
        text = f"mean cosine {numbers[0]} within superclasses, {numbers[1]} across"
        svg = plots.to_svg(figure, f"Classes of {arm.label}: {text}.", f"geometry-{arm.index}")
    legend = (
        plots.Key("■", plots.variable(plots.colour(arm.index)), "alike: full at cosine 1"),
        plots.Key("■", plots.variable(plots.MUTED), "opposed: full at cosine −1"),
    )
    caption = f"{text[0].upper()}{text[1:]} ({name}). The first seed."
    return Plot(svg, arm.label, caption, legend)


def cells_of(cosines: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, list[int], str]:
    """Return what a map shows: cells, where superclasses end, and what a row is.

    Args:
        cosines: ``[classes, classes]``.
        groups: superclass of each class ``[classes]``.

    Returns:
        Cosines with the classes of a superclass beside each other, or, of more than ``MAX_SIDE``
        classes, means over all pairs of two superclasses (a class with itself left out; NaN where
        a superclass has one class).
    """
    order = np.argsort(groups, kind="stable")
    if len(groups) <= MAX_SIDE:
        ends = [int(i) for i in np.flatnonzero(np.diff(groups[order])) + 1]
        return cosines[np.ix_(order, order)], ends, "classes, by superclass"
    kinds = np.unique(groups)
    others = np.where(np.eye(len(groups), dtype=bool), 0.0, cosines)
    members = (groups[None, :] == kinds[:, None]).astype(np.float64)
    pairs = members @ (1 - np.eye(len(groups))) @ members.T
    with np.errstate(invalid="ignore"):
        return members @ others @ members.T / pairs, [], "superclasses"


def _draw(axes: plots.Axes, values: np.ndarray, shade: str) -> None:
    """Fill cells: the arm's colour where alike, grey where opposed, the fuller the further."""
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    cells, colours = [], []
    for (i, j), value in np.ndenumerate(values):
        strength = round(min(1.0, abs(value)), 2) if math.isfinite(value) else 0.0
        if strength > 0:
            cells.append(Rectangle((j, i), 1, 1))
            colours.append(to_rgba(shade if value > 0 else plots.MUTED, strength))
    axes.add_collection(PatchCollection(cells, facecolors=colours, linewidths=0))
