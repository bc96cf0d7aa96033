"""PKT: the student's probability of neighbours should be the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from limbeck import functional
from limbeck.methods.base import Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.coupled import Coupled
from limbeck.methods.registry import register_method


@register_method("pkt")
@dataclass(frozen=True, kw_only=True)
class PKT(Coupled):
    r"""Passalis and Tefas (2018): KL divergence of each sample's probabilities over the batch.

    .. math:: \frac{1}{b^2} \sum_{ij} p^T_{ij} \log \frac{p^T_{ij}}{p^S_{ij}}, \quad
        p_{ij} = \frac{\cos(f_i, f_j) + 1}{\sum_k \cos(f_i, f_k) + 1}

    Args:
        weight: 30000, beside a task weight of 1, as RepDistiller and mdistiller run it (the loss
            is a mean over the b² entries).
        pairs: the vectors before the classifier; "auto" compares the last stages; another tap of
            the same name in both; or pairs ``((student tap, teacher tap), …)``, which add up.
        eps: added to lengths and inside the logarithm, as in the authors' code; above 0.
    """

    weight: float = 30000.0
    eps: float = 1e-7

    card: ClassVar[Card] = Card(
        title="PKT",
        paper=Paper(
            authors="Passalis, Tefas",
            year=2018,
            title="Learning Deep Representations with Probabilistic Knowledge Transfer",
            venue="ECCV 2018",
            arxiv="1803.10837",
        ),
        equation="mean_ij p^T_ij log(p^T_ij / p^S_ij), p_ij ∝ (cos(f_i, f_j) + 1) / 2 in each row",
        knowledge=("feature", "relation"),
        location=("intermediate",),
        transfer="KL divergence of similarities",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="features",
        separable=False,
        exempt={
            "halves": "each sample is compared with all others of its batch",
            "zero_at_equality": "the ε inside the logarithm leaves a gradient of its order (10⁻⁷) "
            "where student equals teacher; the value is 0",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.eps > 0, "eps", "a number above 0")

    def relate(self, student: Tensor, teacher: Tensor) -> Terms:
        """Return ``{"pkt": scalar}``."""
        return {"pkt": functional.pkt(student, teacher, eps=self.eps)}
