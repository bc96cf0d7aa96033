"""BSS: the teacher is heard where it would change its mind, at samples moved to its boundary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.data.seeds import counter_uniform
from limbeck.errors import MethodError
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Cost, Paper
from limbeck.methods.context import Context
from limbeck.methods.counting import CountingRuntime
from limbeck.methods.registry import register_method
from limbeck.methods.supervised import labels_of
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle

TARGETS = 0x425353  # the stream of random numbers that decide where samples are moved to


@register_method("bss")
@dataclass(frozen=True, kw_only=True)
class BSS(Method):
    r"""Heo et al. (2019): distillation with samples that support the teacher's boundary.

    .. math:: a(e) \, H(p, q) + b(e) \, H(p', q'), \quad a = 1 + \max(3 (1 - e/E), 0), \;
              b = \max(2 (1 - 4e / 3E), 0)

    p and q at temperature T. The second part is of samples that both got right, moved along the
    teacher's gradient until it calls them something else. Which class that is to be is drawn from
    the teacher's own doubts. Epoch e of E counts from 1; from three quarters on there is no second
    part. The log of each epoch has the shares of samples that were moved, and that crossed over.

    Args:
        weight: weight of both parts, beside a task weight of 1.
        temperature: softening of both outputs, above 0; there is no factor of T².
        samples: how many of a batch are moved at most, at least 1.
        steps: how often each is moved at most, at least 1.
        step: length of a move, above 0, times the gap between the two logits.
        limit: inputs stay in ± this, above 0 (2.5 fits images of mean 0 and deviation 1); None: no
            limit.
        soft: how much a exceeds 1 at the start, at least 0.
        boundary: b at the start, at least 0; 0: no second part.
    """

    temperature: float = 3.0
    samples: int = 64
    steps: int = 10
    step: float = 0.3
    limit: float | None = 2.5
    soft: float = 3.0
    boundary: float = 2.0

    card: ClassVar[Card] = Card(
        title="BSS",
        paper=Paper(
            authors="Heo, Lee, Yun, Choi",
            year=2019,
            title="Knowledge Distillation with Adversarial Samples Supporting Decision Boundary",
            venue="AAAI 2019",
            arxiv="1805.05532",
        ),
        equation="a(e) H(p, q) + b(e) H(p', q'), p' and q' at samples moved to the boundary",
        data_modification="samples that both get right are moved to the teacher's boundary",
        location=("output", "input"),
        transfer="cross-entropy with soft labels",
        supervision="labels",
        teacher_access="input_gradients",
        separable=False,
        cost=Cost(teacher_forwards=9.0, student_steps=1.5),
        exempt={"zero_at_equality": "cross-entropies, whose least value is the teacher's entropy"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.temperature > 0, "temperature", "a number above 0")
        self.require(self.samples >= 1, "samples", "a whole number of at least 1")
        self.require(self.steps >= 1, "steps", "a whole number of at least 1")
        self.require(self.step > 0, "step", "a number above 0")
        self.require(self.limit is None or self.limit > 0, "limit", "a number above 0, or null")
        self.require(self.soft >= 0, "soft", "a number of at least 0")
        self.require(self.boundary >= 0, "boundary", "a number of at least 0")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Count the samples that are moved."""
        return BSSRuntime(self, ("moved", "crossed"))

    @property
    def teacher_gradients(self) -> bool:
        """Samples climb the teacher's own slope."""
        return True

    def shares(self, epoch: int, epochs: int) -> tuple[float, float]:
        """Return a and b at an epoch, counted from 0."""
        done = (epoch + 1) / epochs
        return 1 + max(self.soft * (1 - done), 0.0), max(self.boundary * (1 - 4 / 3 * done), 0.0)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"bss_kd": scalar}``; the boundary's part needs models to ask (``prepare``)."""
        value = functional.kd_cross_entropy(
            student.logits, teacher.logits, temperature=self.temperature
        )
        return {"bss_kd": self.shares(ctx.epoch, ctx.epochs)[0] * value}


class BSSRuntime(CountingRuntime):
    """BSS at work: moves samples, and asks both networks about them."""

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return the terms ``bss_kd`` and ``bss``."""
        method = cast(BSS, self.method)
        terms = dict(method.losses(student, teacher, batch, ctx))
        terms["bss"] = student.logits.new_zeros(())
        share = method.shares(ctx.epoch, ctx.epochs)[1]
        targets = labels_of(batch, method.name)
        moved = torch.zeros(len(batch), dtype=torch.bool, device=student.logits.device)
        crossed = moved.clone()
        if share > 0:
            base = functional.base_samples(
                student.logits, teacher.logits, targets, most=method.samples
            )
            if len(base):
                found = self._move(batch, teacher.logits[base], base, ctx)
                theirs = ctx.teacher(found, method.teacher).detach().logits
                value = functional.kd_cross_entropy(
                    ctx.student(found).logits, theirs, temperature=method.temperature
                )
                terms["bss"] = share * value
                moved[base] = True
                crossed[base] = theirs.argmax(dim=-1) != targets[base]
        self.count(len(batch), moved=moved, crossed=crossed)
        return terms

    def _move(self, batch: Batch, said: Tensor, base: Tensor, ctx: Context) -> Batch:
        """Return the samples of ``base``, moved until the teacher calls them something else."""
        method = cast(BSS, self.method)
        if not isinstance(batch.inputs, Tensor) or not batch.inputs.is_floating_point():
            raise MethodError(
                "method bss: moves samples along the teacher's gradient, which inputs that are not "
                "one tensor of floats do not have; set method.boundary=0"
            )
        if batch.teacher_inputs is not None:
            raise MethodError("method bss: cannot move samples that the teacher sees differently")
        index = None if batch.index is None else batch.index[base]
        if index is None:
            chance = torch.rand(len(base), device=said.device)
        else:
            chance = counter_uniform(ctx.seed, ctx.step, index, TARGETS)
        towards = functional.adversarial_targets(said, chance)[:, None]
        start = said.argmax(dim=-1, keepdim=True)
        found = Batch(
            inputs=batch.inputs[base].detach(),
            index=index,
            changed=torch.ones(len(base), dtype=torch.bool, device=said.device),
        )
        for _ in range(method.steps):
            inputs = found.inputs.detach().requires_grad_()
            with torch.enable_grad():
                answer = ctx.teacher(
                    found.replace(inputs=inputs), method.teacher, require_grad=True
                ).logits
                gap = (answer.gather(1, start) - answer.gather(1, towards)).squeeze(1)
                slope = _slope(-gap.sum(), inputs)
            moving = answer.detach().argmax(dim=-1, keepdim=True) == start
            if not bool(moving.any()):
                break
            step = functional.boundary_step(
                inputs.detach(),
                slope,
                gap.detach(),
                moving.squeeze(1),
                step=method.step,
                limit=method.limit,
            )
            found = found.replace(inputs=step)
        return found


def _slope(value: Tensor, inputs: Tensor) -> Tensor:
    """Return the gradient at the inputs; zero where the value does not depend on them."""
    if not value.requires_grad:
        return torch.zeros_like(inputs)
    (found,) = torch.autograd.grad(value, inputs, allow_unused=True)
    return torch.zeros_like(inputs) if found is None else found
