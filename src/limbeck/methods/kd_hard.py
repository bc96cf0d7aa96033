"""Hard distillation: the teacher's first choice as a second label."""

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

DEIT = Paper(
    authors="Touvron, Cord, Douze, Massa, Sablayrolles, Jégou",
    year=2021,
    title="Training data-efficient image transformers & distillation through attention",
    venue="ICML 2021",
    arxiv="2012.12877",
)


@register_method("kd_hard")
@dataclass(frozen=True, kw_only=True)
class KDHard(Method):
    r"""Touvron et al. (2021): what the teacher would have chosen counts like the label.

    .. math:: \mathrm{CE}(\arg\max z_T, \sigma(z_S))

    It has no temperature to tune, the teacher's choice follows the augmentation (a crop that shows
    something else is called something else), and a black box that names a class will do as teacher.
    Relations between classes are lost.

    Args:
        weight: weight of the knowledge term (1/2, beside a task weight of 1/2).
        label_smoothing: ε of the teacher's choice, in [0, 1]: ``(1-ε) onehot + ε/classes``.
    """

    weight: float = 0.5
    label_smoothing: float = 0.0

    card: ClassVar[Card] = Card(
        title="Hard KD",
        paper=DEIT,
        equation="CE(argmax z_T, softmax(z_S))",
        transfer="cross-entropy with the teacher's first choice",
        task_weight=0.5,
        exempt={
            "zero_at_equality": "the teacher's first choice is a label: the student is pulled on "
            "until it is sure"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.label_smoothing <= 1, "label_smoothing", "a number in [0, 1]")

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"kd_hard": scalar}``."""
        value = functional.kd_hard(
            student.logits, teacher.logits, label_smoothing=self.label_smoothing
        )
        return {"kd_hard": value}
