"""Files of texts as rows by column: CSV, TSV, JSON lines, Parquet, and "label text" lines."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from limbeck.data.sources.common import require
from limbeck.errors import DataError, unknown

Column = str | int
FORMS = (".csv", ".tsv", ".jsonl", ".parquet", ".txt")


class Rows:
    """The rows of one file.

    Args:
        path: the file.
        names: its columns.
        rows: one list of values a row, in the columns' order.
    """

    def __init__(self, path: Path, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self.path, self.names, self.rows = path, list(names), rows

    def column(self, column: Column) -> list[Any]:
        """Return a column by its name or number (0 first, -1 last).

        Raises:
            DataError: there is none; the nearest name is said.
        """
        if isinstance(column, int):
            if not -len(self.names) <= column < len(self.names):
                raise DataError(f"column {column}: {self.path} has {len(self.names)} columns")
            return [row[column] for row in self.rows]
        if column not in self.names:
            raise DataError(f"{self.path}: " + unknown("column", str(column), self.names))
        place = self.names.index(column)
        return [row[place] for row in self.rows]

    def texts(self, column: Column) -> list[str]:
        """Return a column of texts; DataError where one is missing or no text."""
        found = self.column(column)
        for number, value in enumerate(found):
            if not isinstance(value, str) or not value.strip():
                blank = value is None or (isinstance(value, str) and not value.strip())
                shown = "no text" if blank else f"{value!r}, not a text"
                raise DataError(f"{self.path}, row {number}, column {column!r}: {shown}")
        return found


def read_rows(path: Path, *, header: bool, separator: str | None, quoting: bool) -> Rows:
    """Read a file by its ending (``.gz`` behind it too).

    Args:
        path: .csv, .tsv, .jsonl (one object a line), .parquet, or .txt ("label text" lines, with
            columns "label" and "text").
        header: whether the first line of a CSV or TSV names the columns.
        separator: of CSV and TSV; None: by the ending. Of .txt: what stands between label and
            text; None: the first white space.
        quoting: whether quotation marks may hold a value together (CSV and TSV).

    Raises:
        DataError: no such file, damaged, or of another form; with the line where that is known.
    """
    path = path.expanduser()
    if not path.is_file():
        raise DataError(f"no file {path}: expected {', '.join(FORMS)} (also .gz)")
    form = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if form == ".parquet":
        return _parquet(path)
    if form not in FORMS:
        raise DataError(f"{path}: " + unknown("ending", form, FORMS))
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            if form == ".jsonl":
                found = _json_lines(path, file)
            elif form == ".txt":
                found = _label_lines(path, file, separator)
            else:
                sign = separator or ("\t" if form == ".tsv" else ",")
                found = _separated(path, file, header, sign, quoting)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not found.rows:
        raise DataError(f"{path} is empty: expected at least one row")
    return found


def _separated(path: Path, file: TextIO, header: bool, separator: str, quoting: bool) -> Rows:
    csv.field_size_limit(sys.maxsize)  # the default refuses texts above 128 KiB
    plain: Any = {} if quoting else {"quoting": csv.QUOTE_NONE}
    reader = csv.reader(file, delimiter=separator, strict=quoting, **plain)
    rows: list[list[str]] = []
    names: list[str] | None = None
    try:
        for row in reader:
            if not row:
                continue
            if names is None:
                names = row if header else [str(number) for number in range(len(row))]
                if header:
                    continue
            if len(row) != len(names):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(row)} values, expected {len(names)}"
                    + (" (quotation marks that are part of a text: quoting=false)" * quoting)
                )
            rows.append(row)
    except csv.Error as error:
        hint = " (quotation marks that are part of a text: quoting=false)" if quoting else ""
        raise DataError(f"{path}, line {reader.line_num}: {error}{hint}") from error
    return Rows(path, names or [], rows)


def _json_lines(path: Path, file: TextIO) -> Rows:
    objects = []
    for number, line in _filled(file):
        try:
            read = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(read, dict):
            raise DataError(f"{path}, line {number}: expected an object, got {line.strip()[:40]}")
        objects.append(read)
    names = list(dict.fromkeys(name for one in objects for name in one))
    return Rows(path, names, [[one.get(name) for name in names] for one in objects])


def _label_lines(path: Path, file: TextIO, separator: str | None) -> Rows:
    rows = []
    for number, line in _filled(file):
        parts = line.strip().split(separator, 1)
        if len(parts) < 2:
            raise DataError(f"{path}, line {number}: expected a label and a text, got {parts[0]!r}")
        rows.append(parts)
    return Rows(path, ["label", "text"], rows)


def _filled(file: TextIO) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(file, 1) if line.strip())


def _parquet(path: Path) -> Rows:
    require("pyarrow", "pyarrow", "tables")
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        line = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as Parquet: {line}") from error
    columns = [table.column(name).to_pylist() for name in table.column_names]
    rows = list(zip(*columns, strict=True))
    if not rows:
        raise DataError(f"{path} is empty: expected at least one row")
    return Rows(path, table.column_names, rows)
