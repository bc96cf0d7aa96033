"""Label smoothing: the control that every teacher must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.methods.base import Method, Terms
from limbeck.methods.card import Card, Cost, Paper
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.taps.outputs import Outputs


@register_method("label_smoothing")
@dataclass(frozen=True, kw_only=True)
class LabelSmoothing(Method):
    """Szegedy et al. (2016): cross-entropy to (1 - epsilon) one-hot + epsilon / C.

    Args:
        epsilon: mass spread evenly over all C classes, in [0, 1).
    """

    epsilon: float = 0.1

    card: ClassVar[Card] = Card(
        title="Label smoothing",
        paper=Paper(
            authors="Szegedy, Vanhoucke, Ioffe, Shlens, Wojna",
            year=2016,
            title="Rethinking the Inception Architecture for Computer Vision",
            arxiv="1512.00567",
        ),
        equation="CE((1 - ε) onehot(y) + ε/C, softmax(z_S))",
        teachers="none",
        knowledge=("none",),
        location=(),
        transfer="cross-entropy",
        supervision="labels",
        teacher_access="none",
        replaces_task=True,
        cost=Cost(teacher_forwards=0),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.epsilon < 1, "epsilon", "a number in [0, 1)")

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return no knowledge terms: all is in the task term."""
        return {}

    def task_loss(self, student: Outputs, batch: Batch, ctx: Context) -> Tensor:
        """Return the smoothed cross-entropy over the labelled samples."""
        assert batch.targets is not None
        return functional.cross_entropy(student.logits, batch.targets, label_smoothing=self.epsilon)
