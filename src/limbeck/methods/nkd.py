"""NKD: the label's probability as a soft label, and the others made to sum to one."""

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


@register_method("nkd")
@dataclass(frozen=True, kw_only=True)
class NKD(Method):
    r"""Yang et al. (2023): normalised KD, beside the ordinary cross-entropy.

    .. math:: -p_y \log q_y - \gamma T^2 \sum_{k \ne y} \hat p_k \log \hat q_k, \quad
              \hat p_k = p_k / \textstyle\sum_{j \ne y} p_j

    KD's non-label probabilities of teacher and student sum to different numbers, so no student can
    match their ratios alone; normalised ones it can. Of DKD's two parts the first differs: there
    is no term on the mass of the others, only the label's own probability. Samples without a label
    cost nothing.

    Args:
        weight: weight of both soft terms, beside a task weight of 1.
        gamma: weight γ of the other classes, at least 0 (1.5 for convolutional pairs on ImageNet, 1
            for transformers, 3.5 with T = 3 for ResNet-34 to ResNet-18 on CIFAR-100, in the
            authors' configurations): worth tuning.
        temperature: softening T of the other classes, above 0; the label's term is at 1.
    """

    gamma: float = 1.5
    temperature: float = 1.0

    card: ClassVar[Card] = Card(
        title="NKD",
        paper=Paper(
            authors="Yang, Zeng, Yuan, Li",
            year=2023,
            title="From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach "
            "with Normalized Loss and Customized Soft Labels",
            venue="ICCV 2023",
            arxiv="2303.13005",
        ),
        equation="-p_y log q_y - γ T² Σ_{k≠y} p̂_k log q̂_k",
        transfer="cross-entropy in two parts",
        supervision="labels",
        min_classes=3,
        exempt={
            "zero_at_equality": "both parts are cross-entropies, and the label's term pulls its "
            "probability to one"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.gamma >= 0, "gamma", "a number of at least 0")
        self.require(self.temperature > 0, "temperature", "a number above 0")

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"nkd": scalar}``."""
        value = functional.nkd(
            student.logits,
            teacher.logits,
            labels_of(batch, self.name),
            gamma=self.gamma,
            temperature=self.temperature,
        )
        return {"nkd": value}
