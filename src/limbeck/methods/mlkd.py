"""MLKD: logits aligned for each sample, between samples and between classes, at several heats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.augment import Augment
from limbeck.data.batch import Batch
from limbeck.data.seeds import mix
from limbeck.data.steps import Step
from limbeck.errors import MethodError
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Cost, Paper
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle

STRONG_VIEW = 0x4D4C4B44  # the seed of second views is mixed with it: their draws are their own


@register_method("mlkd")
@dataclass(frozen=True, kw_only=True)
class MLKD(Method):
    r"""Jin, Wang and Lin (2023): three levels of agreement, several temperatures, two views.

    .. math:: \sum_T T^2 \, \mathrm{KL}(p \,\|\, q) + \frac{1}{B} \| P P^\top - Q Q^\top \|^2
              + \frac{1}{C} \| P^\top P - Q^\top Q \|^2

    Every batch is shown twice: as it comes (weak), and moved and blanked further (strong). All
    levels are summed over temperatures and over both views. The authors' strong view is
    RandAugment; ours is rotation, a blanked square and noise on top of the weak one, each sample's
    from (seed, epoch, index). With ``rotate``, ``cutout`` and ``noise`` at 0 there is one view.

    Args:
        weight: weight of all three levels (0.9).
        temperatures: softening of both outputs, each above 0.
        instance: weight of the level of samples, at least 0.
        batch: weight of the level between samples, at least 0.
        classes: weight of the level between classes, at least 0.
        form: "levels": the sum above. "code": what the authors' code adds up: on the weak view
            each level times the share of samples (of classes) whose confidence is at most the
            median; of the strong view the level of samples alone, its lowest and highest
            temperature taken from the weak view.
        rotate: largest angle of the strong view, in degrees, at least 0.
        cutout: side of its blanked square, as a share of the image's shorter side, in [0, 1].
        noise: standard deviation of its noise, in units of the inputs, at least 0.
    """

    weight: float = 0.9
    temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0)
    instance: float = 1.0
    batch: float = 1.0
    classes: float = 1.0
    form: Literal["levels", "code"] = "levels"
    rotate: float = 15.0
    cutout: float = 0.25
    noise: float = 0.1

    card: ClassVar[Card] = Card(
        title="MLKD",
        paper=Paper(
            authors="Jin, Wang, Lin",
            year=2023,
            title="Multi-Level Logit Distillation",
            venue="CVPR 2023",
        ),
        equation="Σ_T (T² KL(p ‖ q) + ‖PPᵀ - QQᵀ‖²/B + ‖PᵀP - QᵀQ‖²/C), two views",
        faithful="faithful in part",
        data_modification="a second, more strongly augmented view of every sample",
        transfer="KL divergence and squared distance of correlations",
        task_weight=0.2,  # 0.1 for each of two views, and the task term is their mean
        needs_index=True,
        separable=False,
        cost=Cost(teacher_forwards=2.0, student_steps=2.0),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        heats = self.temperatures
        fits = isinstance(heats, tuple) and len(heats) > 0 and all(t > 0 for t in heats)
        self.require(fits, "temperatures", "numbers above 0, at least one")
        for key in ("instance", "batch", "classes", "rotate", "noise"):
            self.require(getattr(self, key) >= 0, key, "a number of at least 0")
        self.require(0 <= self.cutout <= 1, "cutout", "a share in [0, 1]")
        self.require(self.form in ("levels", "code"), "form", "levels or code")
        single = not (self.rotate or self.cutout or self.noise)
        self.require(
            not (single and self.form == "code"),
            "form",
            "levels where there is no strong view (rotate, cutout and noise are 0)",
        )

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Add the second view."""
        return MLKDRuntime(self)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``mlkd_instance``, ``mlkd_batch`` and ``mlkd_classes`` of one view."""
        return self._named([self._levels(student.logits, teacher.logits, self.temperatures)])

    def of_two_views(self, student: Tensor, teacher: Tensor) -> Terms:
        """Return the terms of ``[2 batch, classes]``: the weak view, then the strong one."""
        (weak, strong), (weak_t, strong_t) = student.chunk(2), teacher.chunk(2)
        heats = self.temperatures
        if self.form == "levels":
            views = [self._levels(weak, weak_t, heats), self._levels(strong, strong_t, heats)]
            return self._named(views)
        samples, classes = _sure_of_less(weak_t.softmax(dim=-1))
        instance, batch, class_level = self._levels(weak, weak_t, heats)
        edges = {min(heats), max(heats)}
        second = [
            self._instance(weak, weak_t, t) if t in edges else self._instance(strong, strong_t, t)
            for t in heats
        ]
        whole = samples * instance + torch.stack(second).sum()
        return self._named([(whole, samples * batch, classes * class_level)])

    def _instance(self, student: Tensor, teacher: Tensor, heat: float) -> Tensor:
        return functional.kd(student, teacher, temperature=heat)

    def _levels(
        self, student: Tensor, teacher: Tensor, heats: tuple[float, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three levels of one view, each summed over the temperatures."""
        forms = (functional.kd, functional.batch_correlation, functional.class_correlation)
        instance, batch, classes = (
            torch.stack([form(student, teacher, temperature=heat) for heat in heats]).sum()
            for form in forms
        )
        return instance, batch, classes

    def _named(self, views: list[tuple[Tensor, Tensor, Tensor]]) -> Terms:
        shares = {"instance": self.instance, "batch": self.batch, "classes": self.classes}
        return {
            f"mlkd_{name}": share * torch.stack(level).sum()
            for (name, share), level in zip(shares.items(), zip(*views, strict=True), strict=True)
        }


class MLKDRuntime(Runtime):
    """MLKD at work: every batch is followed by its strong view."""

    def batch(self, batch: Batch, ctx: Context) -> Batch:
        """Append the strong view, as samples that are no longer those of the data set."""
        method = cast(MLKD, self.method)
        if not (method.rotate or method.cutout or method.noise):
            return batch
        weak = batch.inputs
        if not isinstance(weak, Tensor) or not weak.is_floating_point():
            raise MethodError(
                "method mlkd: only numbers can be seen a second way, these inputs are not one "
                "tensor of floats; set method.rotate=0, method.cutout=0 and method.noise=0"
            )
        if weak.dim() != 4 and (method.rotate or method.cutout):
            raise MethodError(
                f"method mlkd: rotate and cutout need images [batch, channels, height, width], the "
                f"inputs are {list(weak.shape)}; set method.rotate=0 and method.cutout=0"
            )
        if batch.teacher_inputs is not None:
            raise MethodError("method mlkd: cannot make a second view of a teacher's own inputs")
        side = round(method.cutout * min(weak.shape[2:])) if weak.dim() == 4 else 0
        steps: list[Step] = [
            {"rotate": method.rotate},
            {"cutout": side},
            {"noise": method.noise},
        ]
        seed = mix(ctx.seed, STRONG_VIEW)
        strong = Augment(steps)(weak, batch.index, seed=seed, view=ctx.epoch)
        new = torch.ones(len(batch), dtype=torch.bool, device=weak.device)
        old = torch.zeros_like(new) if batch.changed is None else batch.changed
        return batch.replace(
            inputs=torch.cat([weak, strong]),
            targets=_twice(batch.targets),
            index=_twice(batch.index),
            changed=torch.cat([old, new]),
        )

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return the terms of both views."""
        method = cast(MLKD, self.method)
        if not (method.rotate or method.cutout or method.noise):
            return method.losses(student, teacher, batch, ctx)
        return method.of_two_views(student.logits, teacher.logits)


def _twice(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else torch.cat([tensor, tensor])


def _sure_of_less(probs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shares of samples and of classes whose confidence is at most the median."""
    found = (values for values in (probs.amax(dim=-1), probs.sum(dim=0)))
    samples, classes = ((v <= v.quantile(0.5)).to(probs).mean() for v in found)
    return samples, classes
