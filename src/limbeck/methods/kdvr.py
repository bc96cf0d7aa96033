"""KD as variance reduction: the loss-level form, with the schedules of its share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.methods.base import Method, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.methods.supervised import labels_of
from limbeck.taps.outputs import Outputs

_FACTORS = {"constant": 1.0, "decay": 0.9, "increase": 1.047}


@register_method("kdvr")
@dataclass(frozen=True, kw_only=True)
class KDVR(Method):
    r"""Safaryan, Peste and Alistarh (2023): plain KD, its share λ a matter of the teacher.

    .. math:: (1 - \lambda_e) \, \mathrm{CE}(y, q)
              + \lambda_e \, T^2 \, \mathrm{KL}(p_T \,\|\, q)

    For a linear student and a teacher of its form at T = 1, a step on this loss is a step of plain
    SGD minus λ times the teacher's own gradient on the same samples: a control variate. The better
    the teacher is trained, the larger the best λ. With ``teacher: {snapshot: {every: 2}}`` it is
    the authors' repeated self-distillation.

    Args:
        weight: scales the teacher's part alone.
        lam: λ of the first epoch, in [0, 1] (0.7 in the authors' scripts).
        temperature: softening of both sides of the teacher's part, above 0. The identity above
            holds at 1.
        schedule: "constant"; "decay": λ times ``factor`` after each epoch; "increase": likewise,
            up to ``most``.
        factor: None: 0.9 to decay and 1.047 to increase, as in the authors' code.
        most: the largest λ of "increase", in [0, 1].
    """

    weight: float = 1.0
    lam: float = 0.7
    temperature: float = 1.0
    schedule: Literal["constant", "decay", "increase"] = "constant"
    factor: float | None = None
    most: float = 0.9

    card: ClassVar[Card] = Card(
        title="KD (variance reduction, loss level)",
        paper=Paper(
            authors="Safaryan, Peste, Alistarh",
            year=2023,
            title="Knowledge Distillation Performs Partial Variance Reduction",
            venue="NeurIPS 2023",
            arxiv="2305.17581",
        ),
        equation="(1-λ) CE(y, softmax(z_S)) + λ T² KL(softmax(z_T/T) ‖ softmax(z_S/T))",
        transfer="KL divergence",
        supervision="labels",
        replaces_task=True,
        exempt={"zero_at_equality": "the labels' share, which is a part of the method, remains"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lam", "most"):
            self.require(0 <= getattr(self, name) <= 1, name, "a number in [0, 1]")
        self.require(self.temperature > 0, "temperature", "a number above 0")
        self.require(self.schedule in _FACTORS, "schedule", "constant, decay or increase")
        self.require(self.factor is None or self.factor > 0, "factor", "a number above 0, or null")
        fits = (
            self.factor is None
            or {
                "constant": False,
                "decay": self.factor <= 1,
                "increase": self.factor >= 1,
            }[self.schedule]
        )
        self.require(fits, "factor", "at most 1 to decay, at least 1 to increase, else null")
        self.require(
            self.schedule != "increase" or self.lam <= self.most, "lam", "at most that of most"
        )

    def share(self, ctx: Context) -> float:
        """Return λ of this epoch."""
        factor = _FACTORS[self.schedule] if self.factor is None else self.factor
        value = self.lam * factor**ctx.epoch
        return min(value, self.most) if self.schedule == "increase" else value

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"kdvr": scalar}``, the teacher's part."""
        value = functional.kd(student.logits, teacher.logits, temperature=self.temperature)
        return {"kdvr": self.share(ctx) * value}

    def task_loss(self, student: Outputs, batch: Batch, ctx: Context) -> Tensor:
        """Return the labels' part, over the labelled samples."""
        targets = labels_of(batch, self.name)
        return (1 - self.share(ctx)) * functional.cross_entropy(student.logits, targets)
