"""DIST: agreement with a stronger teacher up to scale and shift."""

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


@register_method("dist")
@dataclass(frozen=True, kw_only=True)
class DIST(Method):
    r"""Huang et al. (2022): Pearson correlation of the outputs, over classes and over samples.

    .. math:: \tau^2 \, (\beta \, L_\mathrm{inter} + \gamma \, L_\mathrm{intra})

    A stronger teacher's probabilities are hard to match exactly; their order and proportions are
    what is asked for here. The part over samples sees the whole batch: it is not a mean over
    samples, and says little in small batches or with few classes.

    Args:
        weight: weight of the knowledge term (2, beside a task weight of 1, as in the authors'
            configurations).
        beta: weight of the correlation over classes, at least 0.
        gamma: weight of the correlation over samples, at least 0.
        temperature: softening τ of both outputs, above 0 (4 on CIFAR-100, 1 on ImageNet).
    """

    weight: float = 2.0
    beta: float = 1.0
    gamma: float = 1.0
    temperature: float = 4.0

    card: ClassVar[Card] = Card(
        title="DIST",
        paper=Paper(
            authors="Huang, You, Wang, Qian, Xu",
            year=2022,
            title="Knowledge Distillation from A Stronger Teacher",
            venue="NeurIPS 2022",
            arxiv="2205.10536",
        ),
        equation="τ² (β mean_b (1 - ρ(q_b, p_b)) + γ mean_k (1 - ρ(q_·k, p_·k)))",
        knowledge=("response", "relation"),
        transfer="Pearson correlation",
        separable=False,
        min_classes=3,
        exempt={"halves": "the correlation over samples sees the whole batch"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.beta >= 0, "beta", "a number of at least 0")
        self.require(self.gamma >= 0, "gamma", "a number of at least 0")
        self.require(self.temperature > 0, "temperature", "a number above 0")

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"dist": scalar}``."""
        value = functional.dist(
            student.logits,
            teacher.logits,
            beta=self.beta,
            gamma=self.gamma,
            temperature=self.temperature,
        )
        return {"dist": value}
