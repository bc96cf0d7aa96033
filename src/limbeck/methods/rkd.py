"""RKD: distances and angles between samples should be the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from limbeck import functional
from limbeck.methods.base import Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.coupled import Coupled
from limbeck.methods.registry import register_method


@register_method("rkd")
@dataclass(frozen=True, kw_only=True)
class RKD(Coupled):
    r"""Park et al. (2019): distances of pairs and angles of triples of the samples in a batch.

    .. math:: \lambda_D \, \ell(\psi_D^S, \psi_D^T) + \lambda_A \, \ell(\psi_A^S, \psi_A^T)

    with the Huber loss of width 1, distances divided by their mean in the batch, and the cosine of
    each angle. Both losses are means, over b² pairs and b³ triples of a batch of b.

    Args:
        weight: scales both terms.
        distance: weight of the distances, at least 0 (25, beside a task weight of 1: RepDistiller's
            and mdistiller's).
        angle: weight of the angles, at least 0, and above 0 without distances (50, likewise); time
            grows with b³.
        pairs: the vectors before the classifier; "auto" compares the last stages; another tap of
            the same name in both; or pairs ``((student tap, teacher tap), …)``, which add up.
    """

    distance: float = 25.0
    angle: float = 50.0

    card: ClassVar[Card] = Card(
        title="RKD",
        paper=Paper(
            authors="Park, Kim, Lu, Cho",
            year=2019,
            title="Relational Knowledge Distillation",
            venue="CVPR 2019",
            arxiv="1904.05068",
        ),
        equation="25 Huber(d_S/mean d_S, d_T/mean d_T) + 50 Huber(cos ∠_S, cos ∠_T)",
        knowledge=("feature", "relation"),
        location=("intermediate",),
        transfer="Huber loss of distances and angles",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="features",
        separable=False,
        exempt={"halves": "each sample is compared with all others of its batch"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.distance >= 0, "distance", "a number of at least 0")
        expected = "a number of at least 0, and above 0 where method.distance is 0"
        self.require(self.angle >= 0 and self.distance + self.angle > 0, "angle", expected)

    def relate(self, student: Tensor, teacher: Tensor) -> Terms:
        """Return ``{"rkd_distance": scalar, "rkd_angle": scalar}``, those with a weight above 0."""
        terms = {}
        if self.distance:
            terms["rkd_distance"] = self.distance * functional.rkd_distance(student, teacher)
        if self.angle:
            terms["rkd_angle"] = self.angle * functional.rkd_angle(student, teacher)
        return terms
