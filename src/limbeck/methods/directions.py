"""KL divergence the other way round, and to a mixture of both."""

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


@register_method("reverse_kl")
@dataclass(frozen=True, kw_only=True)
class ReverseKL(Method):
    r"""Gu et al. (2024): the student is held to where the teacher has mass.

    .. math:: T^2 \, \mathrm{KL}(\sigma(z_S / T) \,\|\, \sigma(z_T / T))

    Mode-seeking: a student too small for all of the teacher's answers keeps the likely ones. This
    is MiniLLM's direction, taken class by class on given data.

    Args:
        weight: weight of the knowledge term, beside a task weight of 1.
        temperature: softening of both outputs, above 0.
    """

    temperature: float = 1.0

    card: ClassVar[Card] = Card(
        title="Reverse KL",
        paper=Paper(
            authors="Gu, Dong, Wei, Huang",
            year=2024,
            title="MiniLLM: Knowledge Distillation of Large Language Models",
            venue="ICLR 2024",
            arxiv="2306.08543",
        ),
        equation="T² KL(softmax(z_S/T) ‖ softmax(z_T/T))",
        faithful="faithful in part",
        transfer="reverse KL divergence",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.temperature > 0, "temperature", "a number above 0")

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"reverse_kl": scalar}``."""
        value = functional.reverse_kl(student.logits, teacher.logits, temperature=self.temperature)
        return {"reverse_kl": value}


@register_method("jsd")
@dataclass(frozen=True, kw_only=True)
class JSD(Method):
    r"""Agarwal et al. (2024): the generalised Jensen–Shannon divergence.

    .. math:: T^2 \, (\beta \, \mathrm{KL}(p \,\|\, m) + (1 - \beta) \, \mathrm{KL}(q \,\|\, m)),
              \quad m = \beta p + (1 - \beta) q

    Bounded, and between the two directions of KL. This is GKD's divergence, on given data.

    Args:
        weight: weight of the knowledge term, beside a task weight of 1.
        beta: share of the teacher in the mixture, in (0, 1).
        temperature: softening of both outputs, above 0.
    """

    beta: float = 0.5
    temperature: float = 1.0

    card: ClassVar[Card] = Card(
        title="JSD",
        paper=Paper(
            authors="Agarwal, Vieillard, Zhou, Stanczyk, Ramos, Geist, Bachem",
            year=2024,
            title="On-Policy Distillation of Language Models: Learning from Self-Generated "
            "Mistakes",
            venue="ICLR 2024",
            arxiv="2306.13649",
        ),
        equation="T² (β KL(p ‖ m) + (1-β) KL(q ‖ m)), m = β p + (1-β) q",
        faithful="faithful in part",
        transfer="Jensen–Shannon divergence",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 < self.beta < 1, "beta", "a number in (0, 1)")
        self.require(self.temperature > 0, "temperature", "a number above 0")

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"jsd": scalar}``."""
        value = functional.jensen_shannon(
            student.logits, teacher.logits, beta=self.beta, temperature=self.temperature
        )
        return {"jsd": value}
