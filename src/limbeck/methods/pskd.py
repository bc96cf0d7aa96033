"""PS-KD: labels softened by what the student itself said an epoch ago, more and more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.methods.base import Method, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.methods.supervised import labels_of
from limbeck.taps.outputs import Outputs


@register_method("pskd")
@dataclass(frozen=True, kw_only=True)
class PSKD(Method):
    r"""Kim, Ji, Yoon and Hwang (2021): the student of the epoch before is the teacher.

    .. math:: H((1 - \alpha_t) \, y + \alpha_t \, p_{t-1}, \, q_t), \quad
              \alpha_t = \alpha_T \, t / T

    Epoch t of T counts from 1; in the first, which has no past, labels alone count. The past self
    is asked about the very inputs of the step. A sample without a label has the second part alone.
    In a cohort each member hears its own past.

    Args:
        weight: 1; another scales the part of the past self beside the paper's.
        teacher: the teacher that speaks for the past: "self", the student as it was at the end of
            the epoch before, needs not be written down. Any other teacher gives labels that are
            softened by it, more and more.
        alpha: α_T, share of the past self in the last epoch, in [0, 1].
    """

    teacher: str | None = "self"
    alpha: float = 0.8

    card: ClassVar[Card] = Card(
        title="PS-KD",
        paper=Paper(
            authors="Kim, Ji, Yoon, Hwang",
            year=2021,
            title="Self-Knowledge Distillation with Progressive Refinement of Targets",
            venue="ICCV 2021",
            arxiv="2006.12000",
        ),
        equation="H((1-α_t) y + α_t p_{t-1}, softmax(z_S)), α_t = α t / T",
        teachers="one (the student of the epoch before)",
        transfer="cross-entropy with softened labels",
        supervision="labels",
        timing="self",
        replaces_task=True,
        exempt={
            "zero_at_equality": "a cross-entropy, whose least value is the teacher's entropy; its "
            "gradient is zero"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.alpha <= 1, "alpha", "a share in [0, 1]")

    def share(self, epoch: int, epochs: int) -> float:
        """Return α_t at an epoch, counted from 0: 0 at the first, ``alpha`` at the last."""
        return self.alpha * (epoch + 1) / epochs if epoch > 0 else 0.0

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"pskd": scalar}``, the part of the past self."""
        value = functional.kd_cross_entropy(student.logits, teacher.logits)
        return {"pskd": self.share(ctx.epoch, ctx.epochs) * value}

    def task_loss(self, student: Outputs, batch: Batch, ctx: Context) -> Tensor:
        """Return the part of the labels, the mean over labelled samples."""
        value = functional.cross_entropy(student.logits, labels_of(batch, self.name))
        return (1 - self.share(ctx.epoch, ctx.epochs)) * value
