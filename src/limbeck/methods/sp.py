"""SP: samples that are alike for the teacher should be alike for the student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from limbeck import functional
from limbeck.methods.base import Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.coupled import Coupled
from limbeck.methods.registry import register_method


@register_method("sp")
@dataclass(frozen=True, kw_only=True)
class SP(Coupled):
    r"""Tung and Mori (2019): the similarities of all pairs of samples in a batch of ``b``.

    .. math:: \frac{1}{b^2} \, \| \bar G_T - \bar G_S \|_F^2, \quad G = F F^\top

    ``F`` are features flattened to one row a sample, the bar divides each row by its length.

    Args:
        weight: 3000, beside a task weight of 1, as RepDistiller and mdistiller run it.
        pairs: "auto" compares the last stages; a tap of the same name in both; or pairs
            ``((student tap, teacher tap), …)``, which add up.
    """

    weight: float = 3000.0
    pairs: str | tuple[Any, ...] = "auto"

    card: ClassVar[Card] = Card(
        title="SP",
        paper=Paper(
            authors="Tung, Mori",
            year=2019,
            title="Similarity-Preserving Knowledge Distillation",
            venue="ICCV 2019",
            arxiv="1907.09682",
        ),
        equation="‖Ḡ_T - Ḡ_S‖²_F / b², G = F Fᵀ with rows of length 1",
        knowledge=("feature", "relation"),
        location=("intermediate",),
        transfer="squared error of similarities",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="features",
        separable=False,
        exempt={"halves": "each sample is compared with all others of its batch"},
    )

    def relate(self, student: Tensor, teacher: Tensor) -> Terms:
        """Return ``{"sp": scalar}``."""
        return {"sp": functional.sp(student, teacher)}
