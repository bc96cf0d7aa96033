"""Tf-KD: distillation without a teacher, from a virtual one that is always right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.methods.base import Method, Terms
from limbeck.methods.card import Card, Cost, Paper
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.methods.supervised import labels_of
from limbeck.taps.outputs import Outputs


@register_method("tfkd_reg")
@dataclass(frozen=True, kw_only=True)
class TfKDReg(Method):
    r"""Yuan et al. (2020): cross-entropy, and a divergence to a hand-made teacher.

    .. math:: (1 - \alpha) \, H(y, q) + \alpha \, m \, \mathrm{KL}(p^d_\tau \,\|\, q)

    ``p^d`` puts ``correct`` on the label and the rest evenly on the others. The other two of the
    paper's methods need nothing of their own: Tf-KD self is ``kd`` with a teacher that is the
    student's own recipe, reversed KD is ``kd`` with a smaller teacher.

    Args:
        alpha: share of the virtual teacher, in [0, 1].
        temperature: softening τ of the virtual teacher, above 0.
        multiplier: m, which makes up for ``elementwise``, at least 0 (100 for ResNet-18 on
            CIFAR-100, 1 for the small networks in the authors' code).
        correct: probability of the label before softening, in (1/C, 1].
        soften: "probs": softmax(p^d / τ), as the authors' code; "power": p^d to the power 1/τ,
            normalised, which is what softening logits means, and what the paper draws.
        student_softened: softmax(z/τ) on the student's side too, as eq. 9 has it; the code's
            student is not softened.
        reduction: of the divergence: "elementwise" as the code, or "batchmean".
    """

    alpha: float = 0.1
    temperature: float = 20.0
    multiplier: float = 100.0
    correct: float = 0.99
    soften: Literal["probs", "power"] = "probs"
    student_softened: bool = False
    reduction: Literal["batchmean", "elementwise"] = "elementwise"

    card: ClassVar[Card] = Card(
        title="Tf-KD reg",
        paper=Paper(
            authors="Yuan, Tay, Li, Wang, Feng",
            year=2020,
            title="Revisiting Knowledge Distillation via Label Smoothing Regularization",
            venue="CVPR 2020",
            arxiv="1909.11723",
        ),
        equation="(1-α) CE(y, softmax(z_S)) + α m KL(softmax(p^d/τ) ‖ softmax(z_S))",
        teachers="none (a rule over labels)",
        knowledge=("none",),
        location=(),
        transfer="KL divergence to a virtual teacher",
        supervision="labels",
        teacher_access="none",
        replaces_task=True,
        cost=Cost(teacher_forwards=0),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.alpha <= 1, "alpha", "a number in [0, 1]")
        self.require(self.temperature > 0, "temperature", "a number above 0")
        self.require(self.multiplier >= 0, "multiplier", "a number of at least 0")
        self.require(0 < self.correct <= 1, "correct", "a number in (0, 1]")
        self.require(self.soften in ("probs", "power"), "soften", "probs or power")
        self.require(
            self.reduction in ("batchmean", "elementwise"), "reduction", "batchmean or elementwise"
        )

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return no knowledge terms: all is in the task term."""
        return {}

    def task_loss(self, student: Outputs, batch: Batch, ctx: Context) -> Tensor:
        """Return the regularised cross-entropy over the labelled samples."""
        targets = labels_of(batch, self.name)
        label = functional.cross_entropy(student.logits, targets)
        virtual = functional.virtual_teacher_loss(
            student.logits,
            targets,
            correct=self.correct,
            temperature=self.temperature,
            soften=self.soften,
            student_temperature=self.temperature if self.student_softened else 1.0,
            reduction=self.reduction,
        )
        return (1 - self.alpha) * label + self.alpha * self.multiplier * virtual
