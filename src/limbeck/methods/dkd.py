"""DKD: the label's share of the teacher's answer, and the order of the others, weighed apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.methods.base import Method, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.methods.supervised import labels_of
from limbeck.taps.outputs import Outputs


@register_method("dkd")
@dataclass(frozen=True, kw_only=True)
class DKD(Method):
    r"""Zhao et al. (2022): target-class and non-target-class knowledge, decoupled.

    .. math:: T^2 \, (\alpha \, \mathrm{TCKD} + \beta \, \mathrm{NCKD})

    Plain KD weighs NCKD, which carries the relations between classes, by how unsure the teacher
    is; a confident teacher therefore says little. DKD frees that weight. Samples without a label
    cost nothing.

    Args:
        weight: weight of the knowledge term, beside a task weight of 1.
        alpha: weight of the binary part (label against all others), at least 0.
        beta: weight of the part among the other classes, at least 0. The authors use 8 for the
            CIFAR-100 pairs of ResNet-32x4, 6 for VGG-13 and WRN pairs, 2 for ResNet-56 and -110
            pairs, 0.5 and 2 on ImageNet: worth tuning.
        temperature: softening of both outputs, above 0 (1 on ImageNet).
        warmup_epochs: epochs over which the term grows linearly to its full weight: factor
            ``min(epoch / warmup_epochs, 1)``, epochs counted from 1; at least 0, and 0 is none.
    """

    alpha: float = 1.0
    beta: float = 8.0
    temperature: float = 4.0
    warmup_epochs: int = 20

    card: ClassVar[Card] = Card(
        title="DKD",
        paper=Paper(
            authors="Zhao, Cui, Song, Qiu, Liang",
            year=2022,
            title="Decoupled Knowledge Distillation",
            venue="CVPR 2022",
            arxiv="2203.08679",
        ),
        equation="T² (α KL of (label, rest) + β KL among the other classes)",
        transfer="KL divergence in two parts",
        supervision="labels",
        min_classes=3,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.alpha >= 0, "alpha", "a number of at least 0")
        self.require(self.beta >= 0, "beta", "a number of at least 0")
        self.require(self.temperature > 0, "temperature", "a number above 0")
        self.require(self.warmup_epochs >= 0, "warmup_epochs", "a whole number of at least 0")

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"dkd": scalar}``, the warm-up included."""
        value = functional.dkd(
            student.logits,
            teacher.logits,
            labels_of(batch, self.name),
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
        )
        warm = min((ctx.epoch + 1) / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0
        return {"dkd": warm * value}
