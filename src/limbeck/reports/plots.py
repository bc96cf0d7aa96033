"""The drawing board: matplotlib figures as small inline SVG that follow the page's colours.

Figures are drawn about 345 units wide, the width of a phone, so that their text is as large as the
page's on a phone and beside each other on a desktop. Colours are placeholders that become CSS
variables: one drawing serves light, dark and print. Text stays text, in the page's own font.
"""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 345.0
"""Width of a figure in CSS pixels."""
NUM_COLOURS = 8
"""Arm colours of the style sheet; more arms than that reuse them with other markers."""

INK, MUTED, RULE, TEACHER, SURFACE = "#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04", "#0a0a05"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    TEACHER: "--teacher",
    SURFACE: "--surface",
    **{f"#0a0b{i:02x}": f"--arm-{i}" for i in range(NUM_COLOURS)},
}
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ((0, (4, 1.5)), "-", (0, (7, 1.5)), (0, (1.5, 1.2)))


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a glyph in a CSS colour, and what it stands for."""

    glyph: str
    colour: str
    text: str
    opacity: float = 1.0


@dataclass(frozen=True)
class Plot:
    """A figure for the page.

    Attributes:
        svg: the drawing, to be inlined.
        title: a few words above it.
        caption: what it shows and how to read it.
        legend: what the marks mean, where they are not labelled in the drawing.
    """

    svg: str
    title: str
    caption: str = ""
    legend: tuple[Key, ...] = ()


def colour(index: int | None) -> str:
    """Return the placeholder colour of an arm; None is the teacher."""
    return TEACHER if index is None else f"#0a0b{index % NUM_COLOURS:02x}"


def marker(index: int | None) -> str:
    """Return the marker of an arm, so that arms differ in print without colour too."""
    return "D" if index is None else MARKERS[index % len(MARKERS)]


def key(label: str, index: int | None) -> Key:
    """Return the legend's entry for an arm; index None is the teacher."""
    glyph = "◆" if index is None else "●■◆▲▼✚✖★"[index % len(MARKERS)]
    return Key(glyph, variable(colour(index)), label)


def variable(placeholder: str) -> str:
    """Return the CSS expression that a placeholder colour becomes."""
    return f"var({_VARIABLES[placeholder]})"


def dash(index: int | None) -> Any:
    """Return the line style of an arm."""
    return "-" if index is None else DASHES[index % len(DASHES)]


LINE_LABEL = 14
"""Height of a line's label in CSS pixels."""


def short(label: str, length: int = 18) -> str:
    """Return a label cut to ``length`` characters."""
    return label if len(label) <= length else f"{label[: length - 1].rstrip()}…"


@contextmanager
def drawing(height: float = 240.0, width: float = WIDTH) -> Iterator[tuple[Figure, Axes]]:
    """Give a figure with one pair of axes in the report's style.

    Args:
        height: in CSS pixels.
        width: in CSS pixels.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    style: dict[Any, Any] = {
        "font.size": 11.5,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "text.color": INK,
        "axes.edgecolor": RULE,
        "axes.labelcolor": MUTED,
        "axes.labelsize": 11.5,
        "xtick.labelsize": 11.5,
        "ytick.labelsize": 11.5,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.unicode_minus": True,
        "axes.formatter.useoffset": False,
        "grid.color": RULE,
        "grid.linewidth": 0.8,
        "xtick.color": RULE,
        "ytick.color": RULE,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "ytick.major.size": 0,
        "xtick.major.size": 3,
        "lines.linewidth": 2.0,
        "lines.solid_capstyle": "round",
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "svg.fonttype": "none",
        "text.parse_math": False,
    }
    with mpl.rc_context(style), warnings.catch_warnings():
        # The browser draws the text; that the measuring font lacks a glyph does not matter.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(width / 72, height / 72), layout=ConstrainedLayoutEngine())
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.grid(axis="x", visible=False)
        yield figure, axes


def to_svg(figure: Figure, description: str, key: str) -> str:
    """Return a figure as inline SVG with an accessible description.

    Args:
        figure: drawn under :func:`drawing`.
        description: what a reader who cannot see it should know.
        key: unique on the page; keeps the ids of figures apart.
    """
    import matplotlib as mpl

    lay_out(figure)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</defs>\s*", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r' transform="rotate\(-0[^"]*"', "", svg.replace("xlink:href=", "href="))
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var({variable})")
    view = re.search(r'viewBox="([^"]*)"', svg)
    box = view.group(1) if view else f"0 0 {WIDTH:.0f} 240"
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{key}-", body)
    body = re.sub(r"\n\s*", "\n", body).strip()
    alt = html.escape(description, quote=True)
    return f'<svg class="plot" viewBox="{box}" role="img" aria-label="{alt}">\n{body}'


def lay_out(figure: Figure) -> None:
    """Place the axes once and for all; drawing would otherwise do it again each time."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")


def leave_right(figure: Figure, labels: Sequence[str], width: float = WIDTH) -> None:
    """Keep room on the right for labels at the ends of lines, and lay the figure out.

    Args:
        figure: drawn under :func:`drawing`.
        labels: what will be written there.
        width: of the figure in CSS pixels.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    longest = max((len(short(label)) for label in labels), default=0)
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0, 0, 1 - min(0.45, (longest * 7.2 + 8) / width), 1))
    lay_out(figure)


def label_ends(
    axes: Axes, ends: Sequence[tuple[str, float, int | None]], x: float, gap: float = 14.0
) -> None:
    """Write labels at the ends of lines, moved apart so that none covers another.

    Args:
        axes: with their limits final.
        ends: label, height in data units and colour index of each line.
        x: where the lines end, in data units.
        gap: least distance between labels in CSS pixels.
    """
    if not ends:
        return
    low, high = axes.get_ylim()
    pixels = axes.get_window_extent().height / axes.figure.dpi * 72
    step = gap * (high - low) / max(pixels, 1.0)
    order = sorted(range(len(ends)), key=lambda i: ends[i][1])
    heights = spread([ends[i][1] for i in order], step, low + step / 3, high - step / 3)
    for i, height in zip(order, heights, strict=True):
        label, _, index = ends[i]
        axes.annotate(
            short(label),
            (x, height),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=colour(index),
            fontweight="bold",
            annotation_clip=False,
        ).set_in_layout(False)


def label_row(axes: Axes, label: str, height: float, index: int | None) -> None:
    """Write a label at the left edge of the axes at a height in data units."""
    axes.annotate(
        short(label, 40),
        (0, height),
        xycoords=("axes fraction", "data"),
        va="center",
        color=colour(index) if index is not None else INK,
        fontweight="bold",
    ).set_in_layout(False)


def label_line(axes: Axes, label: str, value: float, level: int = 0) -> None:
    """Draw a vertical dashed line (a teacher's value) with its label ``level`` lines above."""
    axes.axvline(value, color=TEACHER, lw=1.2, ls=(0, (4, 3)))
    axes.annotate(
        short(label),
        (value, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3 + LINE_LABEL * level),
        textcoords="offset points",
        ha="center",
        va="bottom",
        color=TEACHER,
    )


def spread(
    values: Sequence[float], step: float, low: float = -math.inf, high: float = math.inf
) -> list[float]:
    """Move sorted values apart to at least ``step``, as little as possible (least squares).

    Args:
        values: sorted upwards.
        step: least distance between neighbours.
        low: nothing is placed below it.
        high: nothing is placed above it, unless there is no room.

    >>> spread([0.0, 0.0, 5.0], 1.0)
    [-0.5, 0.5, 5.0]
    >>> spread([0.0, 0.0, 5.0], 1.0, low=0.0, high=4.0)
    [0.0, 1.0, 4.0]
    """
    blocks: list[tuple[float, int]] = []  # mean of (value - rank * step), members
    for i, value in enumerate(values):
        mean, size = value - i * step, 1
        while blocks and blocks[-1][0] > mean:
            before, members = blocks.pop()
            mean = (before * members + mean * size) / (members + size)
            size += members
        blocks.append((mean, size))
    bases = [mean for mean, size in blocks for _ in range(size)]
    last = high - (len(bases) - 1) * step
    return [max(min(base, last), low) + i * step for i, base in enumerate(bases)]


def pad(values: Sequence[float], share: float = 0.08) -> tuple[float, float]:
    """Return axis limits around finite values, with some room."""
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    room = (high - low) * share or abs(high) * share or 1.0
    return low - room, high + room
