"""The sections of a report that come from test predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from limbeck.reports.comparison import estimate_cell
from limbeck.reports.evidence import Arm, Evidence
from limbeck.reports.figures import class_plot, fidelity_plot, reliability_plot
from limbeck.reports.formats import metric_of, number
from limbeck.reports.plots import Plot
from limbeck.reports.predictions import (
    Answers,
    ClassAccuracy,
    Fidelity,
    answers_of,
    fidelity,
    mean_class_accuracy,
    reliability,
)
from limbeck.reports.rescaling import rescaling_of, rescaling_plot, rescaling_table
from limbeck.reports.tables import Cell, Column, Row, Table

MAX_DIAGRAMS = 6
"""Reliability diagrams on a page; more arms than that are left to the table."""
MAX_PROBES = 3
"""Scatter plots of gradient weights on a page; the table has the other arms."""


@dataclass(frozen=True)
class AnswerSections:
    """What predictions add to a page; empty or None where there are none.

    Attributes:
        reliability: one diagram for the teacher and each arm.
        left_out: arms without a diagram for want of room.
        fidelity: who is right, one bar for each arm.
        fidelity_table: agreement in numbers.
        fidelity_note: how to read arms that had no teacher.
        classes: accuracy on the hardest classes.
        rescaling: how the teacher rescales gradients, one plot for each of a few arms.
        rescaling_table: the same in numbers, for all arms with a teacher.
    """

    reliability: tuple[Plot, ...] = ()
    left_out: tuple[str, ...] = ()
    fidelity: Plot | None = None
    fidelity_table: Table | None = None
    fidelity_note: str = ""
    classes: Plot | None = None
    rescaling: tuple[Plot, ...] = ()
    rescaling_table: Table | None = None


def answer_sections(evidence: Evidence) -> AnswerSections:
    """Return the sections that the runs' predictions allow.

    Raises:
        DataError: a predictions.safetensors is damaged.
    """
    found = [(arm, answers_of(arm, evidence)) for arm in evidence.finished]
    found = [(arm, answers) for arm, answers in found if answers]
    if not found:
        return AnswerSections()
    rows = [row for arm, answers in found if (row := fidelity(arm, answers)) is not None]
    borrowed = [row.arm.label for row in rows if row.borrowed]
    note = (
        f"{', '.join(borrowed)} had no teacher: its agreement with the others’ teacher on the same"
        " samples shows how much agreement comes from being right alone."
        if borrowed
        else ""
    )
    shown = found[: MAX_DIAGRAMS - 1]
    probed = [(arm, probe) for arm, answers in found if (probe := rescaling_of(arm, answers))]
    return AnswerSections(
        reliability=tuple(_diagrams(shown)),
        left_out=tuple(arm.label for arm, _ in found[len(shown) :]),
        fidelity=fidelity_plot(rows),
        fidelity_table=_fidelity_table(rows) if rows else None,
        fidelity_note=note,
        classes=_classes(evidence, found),
        rescaling=tuple(rescaling_plot(arm, probe) for arm, probe in probed[:MAX_PROBES]),
        rescaling_table=rescaling_table(probed) if probed else None,
    )


def _teacher_parts(
    found: Sequence[tuple[Arm, list[Answers]]],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the teacher's answers of the first arm that learned from one, once if all alike."""
    for _, answers in found:
        own = [one for one in answers if one.teacher is not None and not one.borrowed]
        parts = [(one.teacher, one.targets) for one in own if one.teacher is not None]
        if parts:
            same = all(np.array_equal(parts[0][0], logits) for logits, _ in parts)
            return parts[:1] if same else parts
    return []


def _diagrams(found: Sequence[tuple[Arm, list[Answers]]]) -> list[Plot]:
    plots = []
    teacher = _teacher_parts(found)
    if teacher:
        plots.append(reliability_plot(reliability("teacher", teacher), None, "reliability-t"))
    for arm, answers in found:
        parts = [(one.student, one.targets) for one in answers]
        diagram = reliability(arm.label, parts)
        plots.append(reliability_plot(diagram, arm.index, f"reliability-{arm.index}"))
    return plots


def _fidelity_table(rows: Sequence[Fidelity]) -> Table:
    """Return agreement overall and on the teacher's errors, and who is right, in percent."""
    percent = metric_of("accuracy")
    names = ("both", "teacher_only", "student_only", "neither")
    labels = ("Both right, %", "Only teacher, %", "Only student, %", "Neither, %")
    columns = (
        Column("arm", "Arm", numeric=False),
        Column("agreement", "Same answer, %"),
        Column("on_errors", "… on its errors, %"),
        *(Column(name, label) for name, label in zip(names, labels, strict=True)),
    )
    body = tuple(
        Row(
            (
                Cell(row.arm.label),
                estimate_cell(percent, row.agreement),
                estimate_cell(percent, row.on_errors),
                *(Cell(number(100 * share, 1), share) for share in row.right),
            )
        )
        for row in rows
    )
    errors = sorted({row.num_errors for row in rows})
    counts = " to ".join(f"{n:,}" for n in (errors if len(errors) < 2 else (errors[0], errors[-1])))
    notes = (f"The teacher errs on {counts} of the test samples.",)
    return Table(columns, body, "Agreement with the teacher on the test set", notes)


def _classes(evidence: Evidence, found: Sequence[tuple[Arm, list[Answers]]]) -> Plot | None:
    """Return the hardest classes for the baseline and at most three other arms."""
    shapes = {one.student.shape[1] for _, answers in found for one in answers}
    if len(shapes) != 1:
        return None
    teacher = _teacher_parts(found)
    rows = [ClassAccuracy("teacher", None, mean_class_accuracy(teacher))] if teacher else []
    for arm, answers in found[:4]:
        parts = [(one.student, one.targets) for one in answers]
        rows.append(ClassAccuracy(arm.label, arm.index, mean_class_accuracy(parts)))
    num_classes = shapes.pop()
    names = evidence.finished[0].runs[0].class_names
    if len(names) != num_classes:
        names = tuple(str(k) for k in range(num_classes))
    if all(name.isdecimal() for name in names):  # a bare number would read as an axis
        names = tuple(f"class {name}" for name in names)
    return class_plot(rows, names)
