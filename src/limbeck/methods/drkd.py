"""DR-KD: a self-teacher whose wrong answers are rectified on the fly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.counting import CountingRuntime
from limbeck.methods.registry import register_method
from limbeck.methods.supervised import labels_of
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("drkd")
@dataclass(frozen=True, kw_only=True)
class DRKD(Method):
    r"""Amik et al. (2022): KD from a teacher whose label and first choice are exchanged if wrong.

    .. math:: T^2 \, \mathrm{KL}(\sigma(z'_T / T) \,\|\, \sigma(z_S / T))

    The paper's teacher is the student's own architecture, trained before on labels alone
    (``teacher: {train: …}``); any teacher will do. The log of each epoch has the share of
    rectified samples. With a teacher that errs on no training sample this is plain KD.

    Args:
        weight: weight of the knowledge term: the authors' α · multiplier = 0.95 · 50 for ResNet-18
            on CIFAR-100, beside a task weight of 1 - α. They vary from 0.1 to 90 by network.
        temperature: softening of both outputs, above 0 (6 there, 20 for smaller networks).
        reduction: "elementwise" averages over classes too, as the authors' code does; "batchmean"
            sums over classes and needs a smaller weight.
    """

    weight: float = 47.5
    temperature: float = 6.0
    reduction: Literal["batchmean", "elementwise"] = "elementwise"

    card: ClassVar[Card] = Card(
        title="DR-KD",
        paper=Paper(
            authors="Amik, Tasin, Ahmed, Elahi, Mohammed",
            year=2022,
            title="Dynamic Rectification Knowledge Distillation",
            arxiv="2201.11319",
        ),
        equation="T² KL(softmax(z'_T/T) ‖ softmax(z_S/T)), z' = z with label and top exchanged",
        teachers="one (the student's own architecture, trained before)",
        transfer="KL divergence to rectified answers",
        timing="self",
        task_weight=0.05,
        of_each_sample="repairs the teacher where it misses a sample's label",
        exempt={"zero_at_equality": "a wrong answer is rectified, so its own copy is not zero"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.temperature > 0, "temperature", "a number above 0")
        self.require(
            self.reduction in ("batchmean", "elementwise"), "reduction", "batchmean or elementwise"
        )

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Count the rectified samples."""
        return DRKDRuntime(self, ("rectified",))

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"drkd": scalar}``."""
        said = functional.swap_with_label(teacher.logits, labels_of(batch, self.name))
        value = functional.kd(
            student.logits, said, temperature=self.temperature, reduction=self.reduction
        )
        return {"drkd": value}


class DRKDRuntime(CountingRuntime):
    """DR-KD at work: how many answers were rectified goes to the log."""

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return the terms, having counted."""
        wrong = functional.is_wrong(teacher.logits, labels_of(batch, self.method.name))
        self.count(len(wrong), rectified=wrong)
        return self.method.losses(student, teacher, batch, ctx)
