"""Explanations in a report: what `limbeck diagnose --explanations` kept in run folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.reports.comparison import estimate_cell
from limbeck.reports.evidence import Arm, Evidence
from limbeck.reports.formats import Metric
from limbeck.reports.reading import mapping
from limbeck.reports.tables import Cell, Column, Row, Table
from limbeck.studies.statistics import estimate

_FIGURES = (
    Metric("agreement", "Same answer", True, "percent", "%"),
    Metric("agreement_on_errors", "… on its errors", None, "percent", "%"),
    Metric("similarity", "Likeness of maps", True),
    Metric("student_energy", "Student’s energy", None, "percent", "%"),
    Metric("teacher_energy", "Teacher’s energy", None, "percent", "%"),
    Metric("accuracy", "Accuracy", True, "percent", "%"),
    Metric("worst_group_accuracy", "Worst group", True, "percent", "%"),
)


@dataclass(frozen=True)
class ExplanationTables:
    """What explanations add to a page.

    Attributes:
        arms: one row for each arm that was diagnosed.
        parts: of each arm, a table of classes and one of groups where there are any.
    """

    arms: Table
    parts: tuple[Table, ...]


def explanation_tables(evidence: Evidence) -> ExplanationTables | None:
    """Return the tables of the runs that were diagnosed; None where none was.

    Raises:
        DataError: an explanations.json is damaged.
    """
    found = [(arm, _diagnosed(arm)) for arm in evidence.finished]
    found = [(arm, runs) for arm, runs in found if runs]
    if not found:
        return None
    everything = [one for _, runs in found for one in runs]
    head = Column("arm", "Arm", numeric=False)
    table = _table(
        head,
        [(arm.label, runs) for arm, runs in found],
        "What the answers hang on",
        [_how(everything), *_fewer(found)],
    )
    parts = []
    for arm, runs in found:
        for key, label in (("classes", "Class"), ("groups", "Group")):
            rows = _parts(runs, key)
            if rows:
                column = Column("part", label, numeric=False)
                parts.append(_table(column, rows, f"{arm.label}, by {label.lower()}"))
    return ExplanationTables(table, tuple(parts))


def _diagnosed(arm: Arm) -> list[Mapping[str, Any]]:
    return [run.explanations for run in arm.runs if run.explanations]


def _parts(
    runs: Sequence[Mapping[str, Any]], key: str
) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Return (name, its figures of all runs) for each class or group."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        for part in run.get(key, ()):
            found.setdefault(str(mapping(part).get("name")), []).append(mapping(part))
    return list(found.items())


def _table(
    head: Column,
    rows: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    caption: str,
    notes: Sequence[str] = (),
) -> Table:
    known = [m for m in _FIGURES if any(_values(runs, m.key) for _, runs in rows)]
    columns = (head, *(Column(metric.key, metric.heading) for metric in known))
    body = tuple(
        Row(
            (
                Cell(name),
                *(estimate_cell(metric, estimate(_values(runs, metric.key))) for metric in known),
            )
        )
        for name, runs in rows
    )
    return Table(columns, body, caption, tuple(notes))


def _values(runs: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    values = [run.get(key) for run in runs]
    return [float(value) for value in values if isinstance(value, int | float)]


def _how(runs: Sequence[Mapping[str, Any]]) -> str:
    explainers = ", ".join(dict.fromkeys(str(run.get("explainer")) for run in runs))
    splits = ", ".join(dict.fromkeys(str(run.get("split")) for run in runs))
    others = dict.fromkeys(str(run["teacher"]) for run in runs if run.get("teacher"))
    beside = f" Beside the student of {', '.join(others)}." if others else ""
    masks = any(run.get("student_energy") is not None for run in runs)
    energy = " Energy: the share of a map that lies in the masks of the data." if masks else ""
    return f"Maps of the teacher’s top class ({explainers}), on {splits}.{energy}{beside}"


def _fewer(found: Sequence[tuple[Arm, list[Mapping[str, Any]]]]) -> list[str]:
    """Say which arms were diagnosed for some of their runs only."""
    some = [
        f"{arm.label}: {len(runs)} of {len(arm.runs)} runs"
        for arm, runs in found
        if len(runs) < len(arm.runs)
    ]
    return [f"Diagnosed in part: {'; '.join(some)}."] if some else []
