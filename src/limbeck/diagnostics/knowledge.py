"""What a teacher gives beside labels: weights for samples, and relations of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limbeck.data import DataBundle, eval_batches
from limbeck.data.batch import IGNORE
from limbeck.diagnostics.class_geometry import ClassGeometry, class_geometry
from limbeck.diagnostics.rescaling import Rescaling, rescaling_between
from limbeck.engine.measuring import EVAL_BATCH
from limbeck.errors import LimbeckError, TapError, TeacherError
from limbeck.models.calling import evaluating
from limbeck.taps import TappedModel
from limbeck.teachers import Teacher


@dataclass(frozen=True, eq=False)
class Knowledge:
    """Two of the three levels at which a teacher's answer differs from a label.

    Attributes:
        split: what both were asked about.
        rescaling: how the teacher rescales the gradient of each labelled sample.
        student: how classes lie to each other in the student's last layer; None where it has none
            that can be read, or the data know no superclasses.
        teacher: likewise in the teacher's.
    """

    split: str
    rescaling: Rescaling
    student: ClassGeometry | None = None
    teacher: ClassGeometry | None = None


def measure_knowledge(
    student: nn.Module,
    teacher: Teacher,
    data: DataBundle,
    *,
    split: str = "test",
    share: float = 1.0,
    temperature: float = 1.0,
) -> Knowledge:
    """Measure what a teacher adds to labels, as Tang et al. (2020, 2002.03532) tell it apart.

    Args:
        student: the network, on the CPU.
        teacher: bound to the data.
        data: of classes, with labels.
        split: "train", "validation" or "test", as evaluation shows it.
        share: λ, the teacher's share of the loss, in [0, 1]; 1: the knowledge term alone.
        temperature: of both sides, above 0.

    Raises:
        LimbeckError: data that are not classification, a split that is not there, or one without
            labels.
        TeacherError: the teacher tells another number of classes apart.
    """
    if data.task != "classification" or split not in data.splits:
        there = ", ".join(data.splits)
        raise LimbeckError(
            f"knowledge: expected classification and one of the splits {there}, got {data.task} "
            f"and {split!r}"
        )
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    with evaluating(student), TappedModel(student) as voice:
        for batch in eval_batches(data.splits[split], EVAL_BATCH, data.augment_eval):
            if batch.targets is not None:
                said = voice.ask(batch, ()).logits, teacher.ask(batch, taps=()).logits
                known = batch.targets != IGNORE
                rows.append((said[0][known], said[1][known], batch.targets[known]))
    if not sum(len(labels) for *_, labels in rows):
        raise LimbeckError(f"knowledge: the split {split!r} has no labelled samples")
    (first, second, _), *_ = rows
    if first.shape != second.shape:
        raise TeacherError(
            f"teachers.{teacher.name}: tells {second.shape[-1]} classes apart, the student "
            f"{first.shape[-1]}"
        )
    ours, theirs, labels = (torch.cat(part).double().numpy() for part in zip(*rows, strict=True))
    return Knowledge(
        split=split,
        rescaling=rescaling_between(ours, theirs, labels, share=share, temperature=temperature),
        student=_geometry(student, data.superclasses),
        teacher=_geometry(teacher.module, data.superclasses),
    )


def _geometry(
    network: nn.Module | None, superclasses: Mapping[str, Tensor]
) -> ClassGeometry | None:
    if network is None or not superclasses:
        return None
    try:
        return class_geometry(network, superclasses)
    except TapError:
        return None
