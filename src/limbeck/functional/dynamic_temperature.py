"""Temperatures that are no fixed number: one for each sample, or learned."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional._common import (
    Reduction,
    check_choice,
    check_same_shape,
    reduce_rows,
    result_dtype,
    working_dtype,
)
from limbeck.functional.divergence import _by_size, _centred, kl_divergence, kl_from_log_probs

Weighting = Literal["flsw", "cwsm"]


def confusion(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    *,
    weighting: Weighting = "flsw",
    gamma: float = 1.0,
) -> Float[Tensor, "*batch"]:
    """How confusing each sample is, ω; without a gradient.

    ``flsw``: ``(1 - cos(z_S, z_T))^γ`` of the raw logits, in [0, 2^γ]. ``cwsm``: one over the
    student's largest probability, in [1, classes].

    Raises:
        ValueError: shapes differ, or an unknown weighting.
    """
    check_choice("weighting", weighting, Weighting)
    check_same_shape(student_logits, teacher_logits, "logits")
    dtype = working_dtype(student_logits, teacher_logits)
    student, teacher = student_logits.detach().to(dtype), teacher_logits.detach().to(dtype)
    if weighting == "cwsm":
        return 1 / student.softmax(dim=-1).amax(dim=-1)
    ours, theirs = (torch.nn.functional.normalize(z, dim=-1) for z in (student, teacher))
    # |a - b|² / 2 is 1 - a·b for unit vectors, without cancellation, and never below 0
    return ((ours - theirs).square().sum(dim=-1) / 2).pow(gamma)


def sample_temperatures(
    omega: Float[Tensor, " batch"],
    *,
    base: float = 4.0,
    bias: float = 1.0,
    minimum: float = 1.0,
) -> Float[Tensor, " batch"]:
    """``τ_i = base + bias · (mean ω - ω_i)``, at least ``minimum``: confusing samples get less.

    Before the floor the mean temperature is ``base``.

    Args:
        omega: confusion of each sample of the batch.
        base: τ_0, above 0.
        bias: β, at least 0; 0 gives ``base`` to all.
        minimum: floor, above 0; the paper's sources have none, and β of 40 makes some τ negative.
    """
    return (base + bias * (omega.mean() - omega)).clamp(min=minimum)


def kd_per_sample(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    temperatures: Float[Tensor, "*batch"],
    *,
    scale_by_temperature_squared: bool = True,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """``τ_i² KL(softmax(z_T/τ_i) ‖ softmax(z_S/τ_i))`` with a fixed temperature for each sample.

    Args:
        student_logits: ``[*batch, classes]``.
        teacher_logits: ``[*batch, classes]``; fixed, receives no gradient.
        temperatures: ``[*batch]``, above 0; fixed.
        scale_by_temperature_squared: multiply each sample by its τ².
        reduction: see ``Reduction``.

    Raises:
        ValueError: shapes differ, or reduction is unknown.
    """
    check_same_shape(student_logits, teacher_logits, "logits")
    if temperatures.shape != student_logits.shape[:-1]:
        raise ValueError(
            f"temperatures have shape {tuple(temperatures.shape)}; expected one for each sample, "
            f"{tuple(student_logits.shape[:-1])}"
        )
    dtype = working_dtype(student_logits, teacher_logits)
    tau = temperatures.detach().to(dtype)

    def plain(student: Tensor) -> Tensor:
        ours, theirs = (
            _centred(z) / tau[..., None]
            for z in (student.to(dtype), teacher_logits.detach().to(dtype))
        )
        rows = kl_divergence(ours, theirs, reduction="none")
        if scale_by_temperature_squared:
            rows = tau**2 * rows
        return reduce_rows(rows, student.shape[-1], reduction).to(result_dtype(student))

    scale = tau**2 if scale_by_temperature_squared else 1.0
    return _by_size(student_logits, teacher_logits, plain, "forward", tau, scale, reduction)


def kd_at_temperature(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    *,
    temperature: Float[Tensor, " 1"],
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """T² KL(softmax(z_T/T) ‖ softmax(z_S/T)), differentiable in T too (CTKD, Li et al. 2211.16231).

    Args:
        student_logits: ``[*batch, classes]``.
        teacher_logits: ``[*batch, classes]``; fixed, receives no gradient.
        temperature: T > 0, ``[1]``; the gradient reaches it through both sides and the T².
        reduction: see ``Reduction``.

    Raises:
        ValueError: shapes differ, or reduction is unknown.
    """
    check_same_shape(student_logits, teacher_logits, "logits")
    dtype = working_dtype(student_logits, teacher_logits)
    hot = temperature.to(dtype)
    student, teacher = (
        (_centred(z) / hot).log_softmax(dim=-1)
        for z in (student_logits.to(dtype), teacher_logits.detach().to(dtype))
    )
    rows = hot.squeeze() ** 2 * kl_from_log_probs(student, teacher, reduction="none")
    return reduce_rows(rows, student.shape[-1], reduction).to(result_dtype(student_logits))
