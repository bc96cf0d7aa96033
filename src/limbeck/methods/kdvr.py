"""KD as variance reduction: the loss-level form, with the schedules of its share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.methods.base import Runtime, Terms
from limbeck.methods.card import Card
from limbeck.methods.context import Context
from limbeck.methods.gradient_cosines import GradientCosines
from limbeck.methods.lambda_schedule import SAFARYAN, LambdaSchedule
from limbeck.methods.layers import teacher_with_layers
from limbeck.methods.registry import register_method
from limbeck.methods.supervised import labels_of
from limbeck.methods.teacher_gradient import SameNetwork
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("kdvr")
@dataclass(frozen=True, kw_only=True)
class KDVR(LambdaSchedule):
    r"""Safaryan, Peste and Alistarh (2023): plain KD, its share λ a matter of the teacher.

    .. math:: (1 - \lambda_e) \, \mathrm{CE}(y, q)
              + \lambda_e \, T^2 \, \mathrm{KL}(p_T \,\|\, q)

    For a linear student and a teacher of its form at T = 1, a step on this loss is a step of plain
    SGD minus λ times the teacher's own gradient on the same samples: a control variate. The better
    the teacher is trained, the larger the best λ. With ``teacher: {snapshot: {every: 2}}`` it is
    the authors' repeated self-distillation.

    Args:
        weight: scales the teacher's part alone.
        lam: λ of the first epoch, in [0, 1] (0.7 in the authors' scripts): no weight, because it
            takes from the labels what it gives the teacher.
        temperature: softening of both sides of the teacher's part, above 0. With linear
            networks it is the control variate at 1 alone.
        limit: λ does not grow beyond it, in (0, 1] (1; the authors' code has 0.9 or 1). A λ that
            starts above it stays as it is, or decays.
        probe: every how many steps the cosine of this loss's gradient and the one of ``pvr`` is
            measured, for the log, at least 0 (0: never). The teacher must then be the student's
            network with other weights, the temperature 1; ``weight`` counts as 1 in it.
    """

    weight: float = 1.0
    lam: float = 0.7
    temperature: float = 1.0
    probe: int = 0

    card: ClassVar[Card] = Card(
        title="KD (variance reduction, loss level)",
        paper=SAFARYAN,
        equation="(1-λ) CE(y, softmax(z_S)) + λ T² KL(softmax(z_T/T) ‖ softmax(z_S/T))",
        transfer="KL divergence",
        supervision="labels",
        replaces_task=True,
        exempt={"zero_at_equality": "the labels' share, which is a part of the method, remains"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.lam <= 1, "lam", "a number in [0, 1]")
        self.require(self.temperature > 0, "temperature", "a number above 0")
        self.require(self.limit <= 1, "limit", "a number in (0, 1]")
        self.require(self.probe >= 0, "probe", "a whole number of at least 0")
        meant = not self.probe or self.temperature == 1
        self.require(meant, "temperature", "1 where probe is above 0")

    @property
    def first_lam(self) -> float:
        """λ of the first epoch."""
        return self.lam

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Match the parameters of student and teacher, where gradients are to be compared."""
        if not self.probe:
            return Runtime(self)
        pair = SameNetwork(self.name, student, teacher_with_layers(self, teachers))
        return ProbedRuntime(self, pair)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"kdvr": scalar}``, the teacher's part."""
        value = functional.kd(student.logits, teacher.logits, temperature=self.temperature)
        return {"kdvr": self.lam_at(ctx.epoch) * value}

    def task_loss(self, student: Outputs, batch: Batch, ctx: Context) -> Tensor:
        """Return the labels' part, over the labelled samples."""
        targets = labels_of(batch, self.name)
        return (1 - self.lam_at(ctx.epoch)) * functional.cross_entropy(student.logits, targets)


class ProbedRuntime(Runtime):
    """KDVR that also measures how near the control variate comes to it."""

    def __init__(self, method: KDVR, pair: SameNetwork) -> None:
        super().__init__(method)
        self.__dict__["pair"] = pair  # the networks are not this module's to save
        self.cosines = GradientCosines(pair)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return the method's terms; every so many steps, measure the cosine."""
        method = cast(KDVR, self.method)
        due = ctx.step % method.probe == 0 and torch.is_grad_enabled()
        if due and batch.targets is not None:
            logits, slopes = cast(SameNetwork, self.__dict__["pair"]).gradient(batch, ctx.task)
            lam = method.lam_at(ctx.epoch)
            self.cosines.add(student.logits, logits, slopes, batch.targets, ctx.task, lam)
        return method.losses(student, teacher, batch, ctx)

    @torch.no_grad()
    def report(self) -> Mapping[str, float]:
        """Return ‖x - θ‖, cos(x, θ), and what the cosines measured come to."""
        pair = cast(SameNetwork, self.__dict__["pair"])
        return pair.distance() | self.cosines.take()
