"""Transformed teacher matching: the temperature on the teacher's side alone."""

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

_PAPER = Paper(
    authors="Zheng, Yang",
    year=2024,
    title="Knowledge Distillation Based on Transformed Teacher Matching",
    venue="ICLR 2024",
    arxiv="2402.11148",
)


@register_method("ttm")
@dataclass(frozen=True, kw_only=True)
class TTM(Method):
    r"""Zheng and Yang (2024): the student as it is learns the teacher to the power γ.

    .. math:: \mathrm{KL}(p^\gamma / \textstyle\sum_k p_k^\gamma \,\|\, q)

    Dropping the student's temperature adds a Rényi entropy to plain KD, which regularises.

    Args:
        weight: weight of the knowledge term, beside a task weight of 1. The authors tune it by
            pair (45 for VGG-13 to VGG-8 with γ = 0.1): worth tuning.
        gamma: power of the teacher's probabilities, above 0 (1/T).
    """

    weight: float = 45.0
    gamma: float = 0.1

    card: ClassVar[Card] = Card(
        title="TTM",
        paper=_PAPER,
        equation="KL(p^γ / Σ p^γ ‖ softmax(z_S))",
        transfer="KL divergence, teacher softened",
        exempt={
            "zero_at_equality": "the teacher is softened and the student is not; zero for γ = 1"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.gamma > 0, "gamma", "a number above 0")

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"ttm": scalar}``."""
        return {"ttm": functional.ttm(student.logits, teacher.logits, gamma=self.gamma)}


@register_method("wttm")
@dataclass(frozen=True, kw_only=True)
class WTTM(Method):
    r"""Zheng and Yang (2024): TTM, each sample weighed by how flat the teacher is.

    .. math:: U_\gamma \, \mathrm{KL}(p^\gamma / \textstyle\sum_k p_k^\gamma \,\|\, q),
              \quad U_\gamma = \textstyle\sum_k p_k^\gamma

    Args:
        weight: weight of the knowledge term, beside a task weight of 1 (4 in the authors' example
            with γ = 0.2): worth tuning.
        gamma: power of the teacher's probabilities, above 0.
    """

    weight: float = 4.0
    gamma: float = 0.2

    card: ClassVar[Card] = Card(
        title="WTTM",
        paper=_PAPER,
        equation="Σ p^γ KL(p^γ / Σ p^γ ‖ softmax(z_S))",
        transfer="KL divergence, teacher softened, samples weighed",
        exempt={
            "zero_at_equality": "the teacher is softened and the student is not; zero for γ = 1"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.gamma > 0, "gamma", "a number above 0")

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"wttm": scalar}``."""
        value = functional.ttm(student.logits, teacher.logits, gamma=self.gamma, weighted=True)
        return {"wttm": value}
