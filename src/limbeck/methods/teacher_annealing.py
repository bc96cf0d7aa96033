"""Teacher annealing: from the teacher to the labels, little by little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError
from limbeck.methods.base import Method, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.taps.outputs import Outputs


@register_method("teacher_annealing")
@dataclass(frozen=True, kw_only=True)
class TeacherAnnealing(Method):
    r"""Clark et al. (2019), BAM: the target moves from the teacher's answer to the label.

    .. math:: H(\lambda y + (1 - \lambda) \, p_T, \, q), \quad \lambda \text{ from 0 to 1 linearly}

    Early on the student learns what the teacher says, at the end what the labels say, so that it
    is not bound to the teacher's mistakes. Written as λ CE(y, q), the task term, and
    (1 - λ) KL(p_T ‖ q): the same up to the teacher's entropy, which has no gradient. Regression
    mixes the targets in the same way. Samples without a label have the teacher's part alone.

    Args:
        weight: weight of the teacher's part.
        temperature: softening of both sides of the teacher's part, above 0 (1 in the paper's
            code), with a factor T².
        start: λ at the first step, in [0, 1].
        end: λ at the end of training, in [0, 1].
    """

    weight: float = 1.0
    temperature: float = 1.0
    start: float = 0.0
    end: float = 1.0

    card: ClassVar[Card] = Card(
        title="Teacher annealing",
        paper=Paper(
            authors="Clark, Luong, Khandelwal, Manning, Le",
            year=2019,
            title="BAM! Born-Again Multi-Task Networks for Natural Language Understanding",
            venue="ACL 2019",
            arxiv="1907.04829",
        ),
        equation="λ CE(y, softmax(z_S)) + (1-λ) KL(softmax(z_T) ‖ softmax(z_S)), λ: 0 → 1",
        transfer="KL divergence, replaced by the labels over time",
        supervision="labels",
        tasks=("classification", "regression"),
        replaces_task=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.temperature > 0, "temperature", "a number above 0")
        for name in ("start", "end"):
            self.require(0 <= getattr(self, name) <= 1, name, "a number in [0, 1]")

    def label_share(self, ctx: Context) -> float:
        """Return λ at this step."""
        return self.start + (self.end - self.start) * ctx.progress

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"teacher_annealing": scalar}``, the teacher's part."""
        if ctx.task == "regression":
            value = functional.kd_regression(student.logits, teacher.logits)
        else:
            value = functional.kd(student.logits, teacher.logits, temperature=self.temperature)
        return {"teacher_annealing": (1 - self.label_share(ctx)) * value}

    def task_loss(self, student: Outputs, batch: Batch, ctx: Context) -> Tensor:
        """Return the labels' part, over the labelled samples."""
        if batch.targets is None:
            raise MethodError("method teacher_annealing: needs the label of each sample, got none")
        form = functional.squared_error if ctx.task == "regression" else functional.cross_entropy
        return self.label_share(ctx) * form(student.logits, batch.targets)
