"""Knowledge distillation: the student learns the teacher's softened outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError
from limbeck.methods.base import Method, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.taps.outputs import Outputs, SparseProbs


@register_method("kd")
@dataclass(frozen=True, kw_only=True)
class KD(Method):
    r"""Hinton, Vinyals and Dean (2015): KL divergence of softened outputs.

    .. math:: T^2 \, \mathrm{KL}(\sigma(z_T / T) \,\|\, \sigma(z_S / T))

    Several labels at once use one Bernoulli divergence per label; regression uses the squared
    distance to the teacher's output (then ``temperature`` has no meaning and is ignored).

    Args:
        weight: weight of the knowledge term (0.9, beside a task weight of 0.1: the values that
            the reference codebases run on CIFAR-100).
        temperature: softening of both outputs, above 0.
        reduction: "batchmean" sums over classes and averages over samples; "elementwise" averages
            over classes too, as some codebases do, which makes the term C times smaller.
    """

    weight: float = 0.9
    temperature: float = 4.0
    reduction: Literal["batchmean", "elementwise"] = "batchmean"

    card: ClassVar[Card] = Card(
        title="KD",
        paper=Paper(
            authors="Hinton, Vinyals, Dean",
            year=2015,
            title="Distilling the Knowledge in a Neural Network",
            arxiv="1503.02531",
        ),
        equation="T² KL(softmax(z_T/T) ‖ softmax(z_S/T))",
        transfer="KL divergence",
        tasks=("classification", "multilabel", "regression"),
        task_weight=0.1,
        teacher_access="sparse",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.temperature > 0, "temperature", "a number above 0")
        self.require(
            self.reduction in ("batchmean", "elementwise"), "reduction", "batchmean or elementwise"
        )

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"kd": scalar}``."""
        if ctx.task == "regression":
            return {"kd": functional.kd_regression(student.logits, teacher.logits)}
        if teacher.sparse is not None:
            return {"kd": self._sparse(student, teacher.sparse)}
        form = functional.kd_multilabel if ctx.task == "multilabel" else functional.kd
        value = form(
            student.logits,
            teacher.logits,
            temperature=self.temperature,
            reduction=self.reduction,
        )
        return {"kd": value}

    def _sparse(self, student: Outputs, teacher: SparseProbs) -> Tensor:
        """Learn from the classes that a cache kept, at the temperature at which it kept them."""
        if teacher.temperature != self.temperature:
            raise MethodError(
                f"method.temperature: {self.temperature:g}, but the teacher's cache keeps "
                f"probabilities at temperature {teacher.temperature:g}; make them the same"
            )
        return functional.kl_sparse(
            student.logits,
            teacher.ids,
            teacher.log_probs,
            teacher.log_tail,
            temperature=self.temperature,
            reduction=self.reduction,
        )
