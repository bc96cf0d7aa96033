"""What a teacher can take from the noise of SGD: λ* of partial variance reduction, before a run."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data import eval_batches
from limbeck.data.batch import Batch
from limbeck.diagnostics.curvature import curvature_along
from limbeck.errors import MethodError
from limbeck.methods.context import Context
from limbeck.methods.teacher_gradient import SameNetwork, mean_gradient
from limbeck.teachers import Teacher, as_teacher

if TYPE_CHECKING:
    from limbeck.data import DataBundle

_NAME = "variance"


@dataclass(frozen=True)
class VarianceEstimate:
    r"""The quantities of Safaryan et al. (2023), for mini-batches of one size.

    Attributes:
        noise: A, mean squared norm of the student's stochastic gradient, less that of its mean.
        teacher_noise: B, mean squared norm of the teacher's.
        covariance: C, mean inner product of the two on the same batches, less that of the means.
        bias: b, squared norm of the teacher's gradient over all data.
        slope: squared norm of the student's gradient over all data; 0 at the optimum, where the
            theory stands.
        step: γ, the learning rate.
        curvature: μ; infinite where the teacher has no bias.
        batch_size: samples in a batch.
        num_batches: batches that were drawn.
    """

    noise: float
    teacher_noise: float
    covariance: float
    bias: float
    slope: float
    step: float
    curvature: float
    batch_size: int
    num_batches: int

    @property
    def correlation(self) -> float:
        """ρ, of the two stochastic gradients."""
        size = (self.noise * self.teacher_noise) ** 0.5
        return self.covariance / size if size > 0 else 0.0

    @property
    def beta(self) -> float:
        """β, the teacher's bias in units of its noise, as a run of this step size feels it."""
        return self._bias / self.teacher_noise if self.teacher_noise > 0 else 0.0

    @property
    def best_lambda(self) -> float:
        """λ* of the biased form."""
        return functional.best_lambda(
            teacher_noise=self.teacher_noise, covariance=self.covariance, bias=self._bias
        )

    @property
    def ratio(self) -> float:
        """What is left of the noise at λ*: N(λ*) / N(0)."""
        return self.ratio_at(self.best_lambda)

    @property
    def unbiased_lambda(self) -> float:
        """λ* of the unbiased form."""
        return functional.best_lambda(
            teacher_noise=self.teacher_noise - self.bias, covariance=self.covariance
        )

    @property
    def unbiased_ratio(self) -> float:
        """What is left of the noise at the λ* of the unbiased form."""
        return functional.expected_ratio(
            noise=self.noise,
            teacher_noise=self.teacher_noise - self.bias,
            covariance=self.covariance,
        )

    def ratio_at(self, lam: float) -> float:
        """Return N(λ) / N(0) of the biased form; 1 where there is no noise."""
        told = {"teacher_noise": self.teacher_noise, "covariance": self.covariance}
        value = functional.neighbourhood(lam, noise=self.noise, bias=self._bias, **told)
        return value / self.noise if self.noise > 0 else 1.0

    @property
    def _bias(self) -> float:
        return self.bias / (self.step * self.curvature)


def estimate_variance(
    student: nn.Module,
    teacher: nn.Module | Teacher,
    data: DataBundle,
    *,
    step: float,
    batch_size: int,
    num_steps: int,
    curvature: float | None = None,
    num_batches: int = 500,
    seed: int = 0,
) -> VarianceEstimate:
    r"""Estimate what λ would be best, and what it would be worth.

    The student stands for the optimum x*: give one that was trained to the end without a teacher.
    The paper's μ bounds the curvature of the loss everywhere. Here it is that along the teacher's
    bias g, :math:`\|g\|^2 / (2 g^T (H + \delta)^{-1} g)`, for which the λ* of a quadratic loss and
    small steps is exact; δ, one over γ and the number of steps, leaves out directions so flat that
    the run does not get anywhere along them.

    Args:
        student: a trained network.
        teacher: the same network with other weights, or a Teacher that has one.
        data: its training part is used, as evaluation shows it, labelled samples alone.
        step: γ, the learning rate that is meant, above 0.
        batch_size: samples in a step.
        num_steps: steps of the run that is meant.
        curvature: μ, above 0; None: estimated as above, which needs a loss that is convex at x.
        num_batches: mini-batches to draw; rounded up to whole passes where the data are fewer.
        seed: of the draws.

    Raises:
        MethodError: a number makes no sense, the networks differ, or the curvature is not that of
            a convex loss.
    """
    numbers = {"step": step, "curvature": 1.0 if curvature is None else curvature}
    for key, value in {**numbers, "batches": num_batches}.items():
        if not 0 < value < math.inf:
            raise MethodError(f"{_NAME}: {key}: expected a number above 0, got {value}")
    ctx = Context(task=data.task, num_outputs=data.num_outputs)
    own = as_teacher(copy.deepcopy(student))
    theirs = teacher if isinstance(teacher, Teacher) else as_teacher(copy.deepcopy(teacher))
    for one in (own, theirs):
        one.bind(data, ctx.device)
    try:
        ours, other = (SameNetwork(_NAME, student, one) for one in (own, theirs))
        means = mean_gradient(ours, data, ctx), mean_gradient(other, data, ctx)
        sums = torch.zeros(3, dtype=torch.float64)
        count = 0
        for batch in _draw(data, batch_size, num_batches, seed):
            first, second = (_flat(pair.gradient(batch, data.task)[1]) for pair in (ours, other))
            first, second = first - means[0], second - means[1]
            sums += torch.stack([first @ first, second @ second, first @ second])
            count += 1
        noise, spread, covariance = (sums / count).tolist()
        bias = float(means[1] @ means[1])
        if curvature is None:
            curvature = curvature_along(student, means[1], data, damping=1 / (step * num_steps))
    finally:
        own.close()
        theirs.close()
    return VarianceEstimate(
        noise=noise,
        teacher_noise=spread + bias,
        covariance=covariance,
        bias=bias,
        slope=float(means[0] @ means[0]),
        step=step,
        curvature=curvature,
        batch_size=batch_size,
        num_batches=count,
    )


def _draw(data: DataBundle, size: int, count: int, seed: int) -> Iterator[Batch]:
    """Yield whole batches of labelled training samples, pass after pass, each in its own order."""
    view = data.splits["train"]
    view = view.select(view.indices[view.labelled])
    if len(view) < size:
        raise MethodError(f"{_NAME}: {len(view)} labelled samples are less than a batch of {size}")
    generator = torch.Generator().manual_seed(seed)
    while count > 0:
        order = view.indices[torch.randperm(len(view), generator=generator)]
        shuffled = view.select(order)
        for batch in eval_batches(shuffled, size, data.augment_eval):
            if len(batch) == size and count > 0:
                count -= 1
                yield batch


def _flat(slopes: list[Tensor]) -> Tensor:
    return torch.cat([slope.reshape(-1) for slope in slopes]).double()
