"""What a comparison of explanations found, over all samples and over parts of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FIGURES = ("accuracy", "agreement", "similarity", "student_energy", "teacher_energy")


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Figures of some samples; None where there is nothing to tell one by.

    Attributes:
        num_samples: samples looked at.
        agreement: share of samples on whose top class both networks agree.
        similarity: mean cosine of the two maps of the teacher's top class.
        accuracy: of the student, on samples with a label.
        student_energy: mean share of the positive energy of the student's maps that lies in the
            masks (energy pointing game), over maps that point anywhere.
        teacher_energy: the same of the teacher.
    """

    num_samples: int
    agreement: float
    similarity: float
    accuracy: float | None = None
    student_energy: float | None = None
    teacher_energy: float | None = None


@dataclass(frozen=True, kw_only=True)
class PartFindings(Findings):
    """The same of the samples of one class, or of one group.

    Attributes:
        name: of the class or group, or its number.
    """

    name: str


@dataclass(frozen=True, kw_only=True)
class ExplanationFindings(Findings):
    """What :func:`limbeck.diagnostics.compare_explanations` found.

    Attributes:
        split: the part that was looked at.
        explainer: how both were explained.
        teacher_accuracy: of the teacher, on samples with a label.
        agreement_on_errors: share of the teacher's errors that the student makes too, as the same
            class; None where it makes none.
        worst_group_accuracy: the student's accuracy on the group where it is least.
        classes: the figures of each class that has labelled samples, in the order of classes.
        groups: of each group, where there are groups.
    """

    split: str
    explainer: str
    teacher_accuracy: float | None = None
    agreement_on_errors: float | None = None
    worst_group_accuracy: float | None = None
    classes: tuple[PartFindings, ...] = ()
    groups: tuple[PartFindings, ...] = ()


def gather(
    columns: Mapping[str, Tensor],
    targets: Tensor,
    groups: Tensor | None,
    *,
    class_names: Sequence[str],
    group_names: Sequence[str] = (),
    split: str,
    explainer: str,
) -> ExplanationFindings:
    """Return means over all samples and over those of each class and group.

    Args:
        columns: float64 ``[samples]`` by name: those of ``FIGURES`` that were measured, and
            "teacher_accuracy"; NaN where a sample has no such figure.
        targets: int64 ``[samples]``, negative without a label.
        groups: integers ``[samples]``, or None.
        class_names: one a class; () for their numbers.
        group_names: likewise.
        split: the part.
        explainer: how both were explained.
    """
    wrong = columns["teacher_accuracy"] == 0
    parts = [
        (class_names[number] if class_names else str(number), targets == number)
        for number in torch.unique(targets[targets >= 0]).tolist()
    ]
    grouped = tuple(
        PartFindings(
            name=group_names[number] if group_names else str(number),
            **_means(columns, groups == number),
        )
        for number in ([] if groups is None else torch.unique(groups).tolist())
    )
    accuracies = [one.accuracy for one in grouped if one.accuracy is not None]
    return ExplanationFindings(
        split=split,
        explainer=explainer,
        teacher_accuracy=_mean(columns["teacher_accuracy"]),
        agreement_on_errors=_mean(columns["agreement"][wrong]),
        worst_group_accuracy=min(accuracies, default=None),
        classes=tuple(PartFindings(name=name, **_means(columns, rows)) for name, rows in parts),
        groups=grouped,
        **_means(columns, torch.ones_like(targets, dtype=torch.bool)),
    )


def _means(columns: Mapping[str, Tensor], rows: Tensor) -> dict[str, Any]:
    """Return the figures over some samples by name; those that are not known are left out."""
    means = {key: _mean(columns[key][rows]) for key in FIGURES if key in columns}
    known = {key: value for key, value in means.items() if value is not None}
    return {"num_samples": int(rows.sum()), **known}


def _mean(values: Tensor) -> float | None:
    mean = float(values.nanmean()) if len(values) else math.nan
    return None if math.isnan(mean) else mean
