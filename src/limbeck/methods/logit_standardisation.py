"""Logit standardisation: every sample brought to the same spread before it is softened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.methods.base import Method, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.taps.outputs import Outputs


@register_method("lskd")
@dataclass(frozen=True, kw_only=True)
class LSKD(Method):
    r"""Sun et al. (2024): KD on logits with mean 0 and standard deviation 1.

    .. math:: T^2 \, \mathrm{KL}(\sigma(\hat z_T / T) \,\|\, \sigma(\hat z_S / T)),
              \quad \hat z = (z - \bar z) / \mathrm{std}(z)

    A small student need not reach the size of a large teacher's logits, only their shape. The
    loss is smaller than plain KD's, hence the larger weight.

    Args:
        weight: weight of the knowledge term (9, beside a task weight of 0.1: the authors' base
            setting; they use 6 to 18 by pair).
        temperature: base temperature of both sides, above 0 (the authors use 2 to 4).
    """

    weight: float = 9.0
    temperature: float = 2.0

    card: ClassVar[Card] = Card(
        title="LSKD",
        paper=Paper(
            authors="Sun, Ren, Li, Wang, Cao",
            year=2024,
            title="Logit Standardization in Knowledge Distillation",
            venue="CVPR 2024",
            arxiv="2403.01427",
        ),
        equation="T² KL(softmax(ẑ_T/T) ‖ softmax(ẑ_S/T)), ẑ = (z - mean) / std",
        transfer="KL divergence of standardised logits",
        task_weight=0.1,
        min_classes=3,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.temperature > 0, "temperature", "a number above 0")

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"lskd": scalar}``."""
        value = functional.kd_standardised(
            student.logits, teacher.logits, temperature=self.temperature
        )
        return {"lskd": value}
