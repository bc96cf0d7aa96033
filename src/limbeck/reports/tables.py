"""One table model, written to a terminal, Markdown, CSV or LaTeX."""

from __future__ import annotations

import csv
import io
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.table import Table as RichTable

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "Δ": r"$\Delta$",
    "\u2212": r"$-$",
    "²": r"\textsuperscript{2}",
    "τ": r"$\tau$",
    "–": "--",
}
_MARKDOWN = {"|": r"\|", "<": "&lt;", ">": "&gt;", "\n": " "}


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        key: its name in CSV.
        label: its name elsewhere.
        numeric: whether it is right-aligned, and written as full-precision numbers in CSV.
        rank: importance where room is short: 0 goes last.
    """

    key: str
    label: str
    numeric: bool = True
    rank: int = 0


@dataclass(frozen=True)
class Cell:
    """A cell: its text, and for CSV the number behind it in the metric's kept unit."""

    text: str
    value: float | None = None
    half_width: float | None = None


@dataclass(frozen=True)
class Row:
    """A row: one cell for each column; ``kind`` is ``teacher``, ``baseline`` or ``arm``."""

    cells: tuple[Cell, ...]
    kind: str = "arm"


@dataclass(frozen=True)
class Table:
    """A table of results.

    Attributes:
        columns: at least one.
        rows: each as long as ``columns``.
        caption: what the table shows, in a line.
        notes: what must be known to read it.

    Raises:
        ValueError: a row has another number of cells than there are columns.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(f"a row of {len(row.cells)} cells in {len(self.columns)} columns")

    def narrowed(self, rank: int) -> Table:
        """Return the table with only the columns of at most ``rank``."""
        kept = [i for i, column in enumerate(self.columns) if column.rank <= rank]
        rows = tuple(replace(row, cells=tuple(row.cells[i] for i in kept)) for row in self.rows)
        return replace(self, columns=tuple(self.columns[i] for i in kept), rows=rows)

    def to_rich(self, width: int | None = None) -> RichTable:
        """Return the table for ``rich.print``.

        Args:
            width: characters there is room for; None: the terminal's. Columns that do not fit are
                left out, the least important first, and named below the table.
        """
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        shown = self._fitting(width or shutil.get_terminal_size().columns)
        hidden = [column.label for i, column in enumerate(self.columns) if i not in shown]
        notes = [f"Not shown for want of room: {'; '.join(hidden)}."] if hidden else []
        table = RichTable(
            title=Text(self.caption) if self.caption else None,
            caption=Text("\n".join([*self.notes, *notes])) or None,
            box=box.SIMPLE_HEAD,
            title_justify="left",
            caption_justify="left",
        )
        for i in shown:
            justify: Literal["right", "left"] = "right" if self.columns[i].numeric else "left"
            table.add_column(Text(self.columns[i].label), justify=justify, no_wrap=True)
        for row in self.rows:
            style = "dim" if row.kind == "teacher" else ""
            table.add_row(*(Text(row.cells[i].text) for i in shown), style=style)
        return table

    def _fitting(self, width: int) -> list[int]:
        """Return the columns that fit in ``width``, in order; the most important always does."""
        widths = [
            3 + max([len(column.label), *(len(row.cells[i].text) for row in self.rows)])
            for i, column in enumerate(self.columns)
        ]
        chosen: list[int] = []
        room = width - 1
        for i in sorted(range(len(widths)), key=lambda i: (self.columns[i].rank, i)):
            if not chosen or widths[i] <= room:
                chosen.append(i)
                room -= widths[i]
        return sorted(chosen)

    def to_markdown(self) -> str:
        """Return a GitHub-flavoured Markdown table, caption above and notes below."""
        rows = [[column.label for column in self.columns]]
        rows += [[cell.text for cell in row.cells] for row in self.rows]
        rows = [[_replace(text, _MARKDOWN) for text in row] for row in rows]
        widths = [max(3, *map(len, texts)) for texts in zip(*rows, strict=True)]
        marks = [
            "-" * (width - 1) + ":" if column.numeric else "-" * width
            for column, width in zip(self.columns, widths, strict=True)
        ]
        lines = [self._line(rows[0], widths), f"| {' | '.join(marks)} |"]
        lines += [self._line(row, widths) for row in rows[1:]]
        head = [_replace(self.caption, _MARKDOWN), ""] if self.caption else []
        tail = [line for note in self.notes for line in ("", _replace(note, _MARKDOWN))]
        return "\n".join([*head, *lines, *tail]) + "\n"

    def _line(self, texts: Sequence[str], widths: Sequence[int]) -> str:
        parts = [
            text.rjust(width) if column.numeric else text.ljust(width)
            for text, width, column in zip(texts, widths, self.columns, strict=True)
        ]
        return f"| {' | '.join(parts)} |"

    def to_csv(self) -> str:
        """Return CSV with full-precision numbers; ``*_half_width`` columns beside estimates."""
        spread = [
            any(row.cells[i].half_width is not None for row in self.rows)
            for i in range(len(self.columns))
        ]
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        header = []
        for column, has_spread in zip(self.columns, spread, strict=True):
            header += [column.key, f"{column.key}_half_width"] if has_spread else [column.key]
        writer.writerow(header)
        for row in self.rows:
            fields: list[str] = []
            for cell, column, has_spread in zip(row.cells, self.columns, spread, strict=True):
                fields.append(_plain(cell.value) if column.numeric else cell.text)
                fields += [_plain(cell.half_width)] if has_spread else []
            writer.writerow(fields)
        return buffer.getvalue()

    def to_latex(self) -> str:
        """Return a LaTeX ``table`` with a ``tabular`` (package booktabs)."""
        alignment = "".join("r" if column.numeric else "l" for column in self.columns)
        lines = [r"\begin{table}", r"\centering"]
        if self.caption:
            lines.append(rf"\caption{{{_replace(self.caption, _LATEX)}}}")
        lines += [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule"]
        lines.append(_latex_row([column.label for column in self.columns]))
        lines.append(r"\midrule")
        lines += [_latex_row([cell.text for cell in row.cells]) for row in self.rows]
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [rf"\par\footnotesize {_replace(note, _LATEX)}" for note in self.notes]
        return "\n".join([*lines, r"\end{table}"]) + "\n"


def _latex_row(texts: Sequence[str]) -> str:
    return " & ".join(_replace(text, _LATEX) for text in texts) + r" \\"


def _replace(text: str, table: dict[str, str]) -> str:
    return "".join(table.get(character, character) for character in text)


def _plain(value: float | None) -> str:
    """Return the shortest text that reads back as the same number; empty for none."""
    if value is None or math.isnan(value):
        return ""
    return repr(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
