"""CAKD: the classes that the teacher thinks of, and all others, weighed apart."""

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


@register_method("cakd")
@dataclass(frozen=True, kw_only=True)
class CAKD(Method):
    r"""After Zhang et al. (2024): KL in three parts, each with a weight of its own.

    .. math:: T^2 \, (\alpha \, \mathrm{BCD} + \beta \, \mathrm{SCD} + \gamma \, \mathrm{WCD})

    BCD: how much mass the strongly correlated classes have together; SCD: which of them; WCD: which
    of all others. DKD is the same split about the label alone; this one needs no labels.

    The three parts are the paper's, from its abstract, and their sum is KL by the chain rule. How
    it chooses the strongly correlated classes and which weights it uses we could not read: the
    teacher's highest, and weights of 1, are ours.

    Args:
        weight: weight of the knowledge term, beside a task weight of 1.
        strong: how many classes are strongly correlated, at least 1; at most all but one are taken.
        alpha: weight of BCD, at least 0.
        beta: weight of SCD, at least 0.
        gamma: weight of WCD, at least 0.
        by_mass: weigh SCD and WCD by the teacher's mass in their classes too, as KL does; with
            weights of 1 this is plain KD.
        temperature: softening of both outputs, above 0.
    """

    strong: int = 5
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    by_mass: bool = False
    temperature: float = 4.0

    card: ClassVar[Card] = Card(
        title="CAKD",
        paper=Paper(
            authors="Zhang, Chen, Ning, Yang, Yuan",
            year=2024,
            title="CAKD: A Correlation-Aware Knowledge Distillation Framework Based on Decoupling "
            "Kullback-Leibler Divergence",
            arxiv="2410.14741",
        ),
        equation="T² (α KL of (strong, weak) + β KL among the strong + γ KL among the weak)",
        faithful="after the abstract",
        transfer="KL divergence in three parts",
        min_classes=3,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.strong >= 1, "strong", "a whole number of at least 1")
        for key in ("alpha", "beta", "gamma"):
            self.require(getattr(self, key) >= 0, key, "a number of at least 0")
        self.require(self.temperature > 0, "temperature", "a number above 0")

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"cakd": scalar}``."""
        value = functional.cakd(
            student.logits,
            teacher.logits,
            strong=self.strong,
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
            by_mass=self.by_mass,
            temperature=self.temperature,
        )
        return {"cakd": value}
