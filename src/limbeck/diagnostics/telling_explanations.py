"""Findings about explanations in words, as plain data, and kept in a run's folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from limbeck.diagnostics.findings import ExplanationFindings, PartFindings
from limbeck.files import write_json

FILE, FORMAT = "explanations.json", 1
SHOWN = 20
"""Classes in a table for a person; where there are more, those whose maps are least alike."""
_COLUMNS = (
    ("accuracy", "accuracy"),
    ("agreement", "agreement"),
    ("similarity", "similarity"),
    ("student_energy", "energy"),
    ("teacher_energy", "teacher's"),
)


def findings_as_plain(found: ExplanationFindings) -> dict[str, Any]:
    """Return all figures as plain data; what is not known is None."""
    plain = dataclasses.asdict(found)
    return plain | {key: list(plain[key]) for key in ("classes", "groups")}


def keep_findings(found: ExplanationFindings, run: Path, teacher: Path | None = None) -> Path:
    """Write the figures into a run's folder, where `limbeck report` finds them.

    Args:
        found: the figures.
        run: the folder.
        teacher: the run whose student was the teacher; None: the run's own teacher.

    Returns:
        The file.
    """
    other = None if teacher is None else teacher.name
    told = {"format": FORMAT, "teacher": other, **findings_as_plain(found)}
    write_json(run / FILE, told)
    return run / FILE


def explanation_lines(found: ExplanationFindings) -> Iterator[str]:
    """Yield the lines for a person: figures of all samples, then a table of classes and groups."""
    yield (
        f"{found.num_samples:,} samples of {found.split}, each explained by {found.explainer} of "
        "the teacher's top class"
    )
    agreement, errors = _shown(found.agreement), _shown(found.agreement_on_errors)
    yield f"agreement   {agreement}  same class as the teacher; on its errors {errors}"
    yield f"similarity  {_shown(found.similarity)}  cosine of the two maps"
    if found.student_energy is not None or found.teacher_energy is not None:
        yield (
            f"energy      {_shown(found.student_energy)}  share of the student's map in the masks; "
            f"of the teacher's {_shown(found.teacher_energy)}"
        )
    teacher = _shown(found.teacher_accuracy)
    yield f"accuracy    {_shown(found.accuracy)}  of the student; of the teacher {teacher}"
    if found.worst_group_accuracy is not None:
        yield f"worst group {_shown(found.worst_group_accuracy)}  accuracy of the student"
    for kind, parts in (("class", found.classes), ("group", found.groups)):
        if parts:
            yield ""
            yield from _table(kind, parts)


def _table(kind: str, parts: Sequence[PartFindings]) -> Iterator[str]:
    shown = list(parts)
    if len(parts) > SHOWN:
        least = sorted(parts, key=lambda one: one.similarity)[:SHOWN]
        shown = [one for one in parts if one in least]
    columns = [
        (key, head) for key, head in _COLUMNS if any(getattr(one, key) is not None for one in parts)
    ]
    first = max(len(kind), *(len(one.name) for one in shown))
    yield "  ".join([f"{kind:<{first}}", "samples", *(f"{head:>10}" for _, head in columns)])
    for one in shown:
        cells = [f"{_shown(getattr(one, key)):>10}" for key, _ in columns]
        yield "  ".join([f"{one.name:<{first}}", f"{one.num_samples:>7,}", *cells])
    if len(parts) > len(shown):
        yield (
            f"… and {len(parts) - len(shown)} more, whose maps are more alike; --json prints all"
        )


def _shown(value: float | None) -> str:
    return "    –" if value is None else f"{value:5.3f}"
