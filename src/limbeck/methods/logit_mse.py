"""Logit matching: squared distance of the logits themselves."""

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


@register_method("logit_mse")
@dataclass(frozen=True, kw_only=True)
class LogitMSE(Method):
    r"""Ba and Caruana (2014): the student regresses the teacher's logits.

    .. math:: \mathrm{mean}_k \, (z_{S,k} - z_{T,k})^2

    Every logit counts alike, however improbable its class; the limit of KD at high temperature
    where logits have mean zero. A number added to all logits of a sample matters here.

    Args:
        weight: weight of the knowledge term, beside a task weight of 1.
    """

    card: ClassVar[Card] = Card(
        title="Logit MSE",
        paper=Paper(
            authors="Ba, Caruana",
            year=2014,
            title="Do Deep Nets Really Need to be Deep?",
            venue="NeurIPS 2014",
            arxiv="1312.6184",
        ),
        equation="mean (z_S - z_T)²",
        transfer="squared error of logits",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
    )

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"logit_mse": scalar}``."""
        value = functional.kd_regression(student.logits, teacher.logits, reduction="elementwise")
        return {"logit_mse": value}
