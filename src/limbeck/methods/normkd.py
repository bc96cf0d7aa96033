"""NormKD: the spread of each sample's logits is its temperature."""

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


@register_method("normkd")
@dataclass(frozen=True, kw_only=True)
class NormKD(Method):
    r"""Chi et al. (2023): a temperature for each sample and each side, from the logits' spread.

    .. math:: \tau_T^2 \, \mathrm{KL}(\sigma(z_T / \tau_T) \,\|\, \sigma(z_S / \tau_S)),
              \quad \tau = c \, \mathrm{std}(z)

    Args:
        weight: weight of the knowledge term (0.9, beside a task weight of 0.1).
        scale: c, the multiple of the standard deviation, above 0 (1 on ImageNet, with weights of
            0.5).
    """

    weight: float = 0.9
    scale: float = 2.0

    card: ClassVar[Card] = Card(
        title="NormKD",
        paper=Paper(
            authors="Chi, Zheng, Li, Yang, Wu, Lin, Cai",
            year=2023,
            title="NormKD: Normalized Logits for Knowledge Distillation",
            arxiv="2308.00520",
        ),
        equation="τ_T² KL(softmax(z_T/τ_T) ‖ softmax(z_S/τ_S)), τ = c std(z)",
        transfer="KL divergence of normalised logits",
        task_weight=0.1,
        min_classes=3,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.scale > 0, "scale", "a number above 0")

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"normkd": scalar}``."""
        value = functional.normkd(student.logits, teacher.logits, scale=self.scale)
        return {"normkd": value}
