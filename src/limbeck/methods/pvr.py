"""PVR: the teacher's stochastic gradient as a control variate for the student's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError
from limbeck.methods.base import Runtime, Terms
from limbeck.methods.card import Card, Cost
from limbeck.methods.context import Context
from limbeck.methods.gradient_cosines import GradientCosines
from limbeck.methods.lambda_schedule import SAFARYAN, LambdaSchedule
from limbeck.methods.layers import teacher_with_layers
from limbeck.methods.registry import register_method
from limbeck.methods.teacher_gradient import FullGradient, SameNetwork
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("pvr")
@dataclass(frozen=True, kw_only=True)
class PVR(LambdaSchedule):
    r"""Safaryan, Peste and Alistarh (2023): distillation as partial variance reduction.

    .. math:: \nabla f_\xi(x) - \lambda \nabla f_\xi(\theta) [+ \lambda \nabla f(\theta)]

    x is the student, θ a teacher of the same network, ξ the batch, f the task loss. What is added
    to the task's gradient enters as a loss that is linear in x, minus λ times
    :math:`\langle \nabla f_\xi(\theta) - \nabla f(\theta), x - \theta \rangle`; so it holds with
    any optimiser, under accumulation and over processes. The paper's setting has no momentum and
    no weight decay, and the task term has weight 1.

    SVRG: ``weight=1, unbiased=True`` and a snapshot teacher. Repeated self-distillation: ``KDVR``
    with a snapshot teacher. Where the teacher has dropout or batch statistics, they
    are those of eval mode.

    Args:
        weight: λ of the first epoch (0.7, the value in the authors' scripts): here λ is the weight
            of the knowledge term. The best one depends on the teacher, and ``limbeck diagnose``
            predicts it. 0 is plain training, to the bit.
        unbiased: add λ ∇f(θ), over all labelled training samples as
            evaluation shows them; computed before the first step, and anew after each snapshot.
        teacher_decay: adds so much times θ to the teacher's gradient, at least 0: for a student
            trained with that weight decay.
        probe: every how many steps the cosine of this gradient and that of distillation as a loss
            is measured, for the log, at least 0 (0: never). Costs two more backward passes.
    """

    weight: float = 0.7
    unbiased: bool = False
    teacher_decay: float = 0.0
    probe: int = 0

    card: ClassVar[Card] = Card(
        title="PVR",
        paper=SAFARYAN,
        equation="∇f_ξ(x) - λ ∇f_ξ(θ) [+ λ ∇f(θ)]",
        knowledge=("gradient",),
        transfer="a linear term with the teacher's gradient",
        supervision="labels",
        tasks=("classification", "multilabel", "regression"),
        task_weight=1.0,
        min_classes=1,
        teacher_access="parameter_gradients",
        same_network=True,
        cost=Cost(teacher_forwards=3.0),
        exempt={
            "zero_at_equality": "a gradient as such: at x = θ it is -λ times the student's own",
            "non_negative": "a tangent plane lies above and below 0",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.teacher_decay >= 0, "teacher_decay", "a number of at least 0")
        self.require(self.probe >= 0, "probe", "a whole number of at least 0")

    @property
    def first_lam(self) -> float:
        """λ of the first epoch: the weight."""
        return self.weight

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Match the parameters of student and teacher."""
        pair = SameNetwork(self.name, student, teacher_with_layers(self, teachers))
        return UnbiasedRuntime(self, pair, data) if self.unbiased else PVRRuntime(self, pair)


class PVRRuntime(Runtime):
    """PVR at work; what it remembers are the cosines since the last report."""

    def __init__(self, method: PVR, pair: SameNetwork) -> None:
        super().__init__(method)
        self.__dict__["pair"] = pair  # the networks are not this module's to save
        self.cosines = GradientCosines(pair)

    @property
    def _pair(self) -> SameNetwork:
        return cast(SameNetwork, self.__dict__["pair"])

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"pvr": -⟨teacher's gradient, x - θ⟩}``; nothing where there is no gradient."""
        method = cast(PVR, self.method)
        if not method.weight or batch.targets is None or not torch.is_grad_enabled():
            return {}
        logits, slopes = self._pair.gradient(batch, ctx.task)
        scale = method.lam_at(ctx.epoch) / method.weight
        if method.probe and ctx.step % method.probe == 0:
            lam = method.lam_at(ctx.epoch)
            self.cosines.add(student.logits, logits, slopes, batch.targets, ctx.task, lam)
        # The engine weighs this term by all samples; the task's gradient counts labelled ones.
        share = scale * batch.label_share / batch.share if batch.share else 0.0
        slopes = self._shifted([share * slope for slope in slopes], scale, ctx)
        rise = functional.tangent_rise(self._pair.student, self._pair.teacher, slopes)
        return {"pvr": -rise}

    def _shifted(self, slopes: list[Tensor], scale: float, ctx: Context) -> list[Tensor]:
        """Return the gradient of the linear term: that of the teacher, and of its weight decay."""
        decay = scale * cast(PVR, self.method).teacher_decay
        if not decay:
            return slopes
        return [
            slope + decay * theta for slope, theta in zip(slopes, self._pair.teacher, strict=True)
        ]

    @torch.no_grad()
    def report(self) -> Mapping[str, float]:
        """Return ‖x - θ‖, cos(x, θ), and what the cosines measured come to."""
        return self._pair.distance() | self.cosines.take()


class UnbiasedRuntime(PVRRuntime):
    """The unbiased form: it remembers the teacher's gradient over all data."""

    def __init__(self, method: PVR, pair: SameNetwork, data: DataBundle | None) -> None:
        super().__init__(method, pair)
        if data is None:
            raise MethodError(
                f"method {method.name}: unbiased=True takes the teacher's gradient over the "
                "training data; pass data=limbeck.data.bundle_from(train, validation, test)"
            )
        pair.refuse_moving_teacher()
        self.full = FullGradient(pair)
        self.__dict__["data"] = data

    def fit(self, data: DataBundle, ctx: Context) -> None:
        """Take the full gradient of the teacher as it is before the first step."""
        self.full.follow(data, ctx)

    def _shifted(self, slopes: list[Tensor], scale: float, ctx: Context) -> list[Tensor]:
        self.full.follow(self.__dict__["data"], ctx)
        full = self.full.parts()
        # the decay of the two gradients cancels
        return [slope - scale * whole for slope, whole in zip(slopes, full, strict=True)]
