"""Temperatures taken from the spread of the logits themselves."""

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional._common import (
    Reduction,
    check_min_classes,
    check_positive,
    check_same_shape,
    reduce_rows,
    result_dtype,
    working_dtype,
)
from limbeck.functional.divergence import _centred, kl_divergence

EPS = 1e-7
"""What the authors' code of logit standardisation adds to the standard deviation."""


def standardise_logits(
    logits: Float[Tensor, "*batch classes"], *, eps: float = EPS
) -> Float[Tensor, "*batch classes"]:
    """Each row with mean 0 and standard deviation 1 (unbiased): ``(z - mean) / (eps + std)``.

    Sun et al. (2403.01427), eq. 8. A row of equal logits gives zeros, with a gradient of zero.

    Args:
        logits: ``[*batch, classes]``, at least 2 classes; two classes always give ±0.7071.
        eps: added to the standard deviation.

    Returns:
        The rows in working precision (a step wider than the logits).

    Raises:
        ValueError: fewer than 2 classes.
    """
    check_min_classes(logits, 2)
    wide = logits.to(working_dtype(logits))
    centred = wide - wide.mean(dim=-1, keepdim=True)
    return centred / (eps + _spread(wide))


def kd_standardised(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    *,
    temperature: float = 2.0,
    eps: float = EPS,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """T² KL of standardised logits at a base temperature (Sun et al. 2403.01427, algorithm 1).

    Adding a number to all logits of a sample, or multiplying them by a positive one, changes
    nothing on either side.

    Args:
        student_logits: ``[*batch, classes]``.
        teacher_logits: ``[*batch, classes]``; fixed, receives no gradient.
        temperature: base temperature, above 0.
        eps: see ``standardise_logits``.
        reduction: see ``Reduction``.

    Raises:
        ValueError: shapes differ, fewer than 2 classes, temperature or reduction is invalid.
    """
    check_same_shape(student_logits, teacher_logits, "logits")
    value = kl_divergence(
        standardise_logits(student_logits, eps=eps),
        standardise_logits(teacher_logits.detach(), eps=eps),
        temperature=temperature,
        reduction=reduction,
    )
    return value.to(result_dtype(student_logits))


def normkd(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    *,
    scale: float = 2.0,
    eps: float = 1e-12,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """NormKD (Chi et al. 2308.00520): a temperature for each sample and each side.

    ``τ = scale · std(z)`` over the classes; the loss is the mean of
    ``τ_T² KL(softmax(z_T/τ_T) ‖ softmax(z_S/τ_S))``. The student's τ is part of the gradient.

    Args:
        student_logits: ``[*batch, classes]``, at least 2 classes.
        teacher_logits: ``[*batch, classes]``; fixed, receives no gradient.
        scale: the multiple c > 0 of the standard deviation (2 on CIFAR-100, 1 on ImageNet in the
            authors' code).
        eps: smallest temperature; it acts where all logits of a sample are equal.
        reduction: see ``Reduction``.

    Raises:
        ValueError: shapes differ, fewer than 2 classes, scale or reduction is invalid.
    """
    check_same_shape(student_logits, teacher_logits, "logits")
    check_positive("scale", scale)
    check_min_classes(student_logits, 2)
    dtype = working_dtype(student_logits, teacher_logits)
    student, teacher = student_logits.to(dtype), teacher_logits.detach().to(dtype)
    ours, theirs = ((scale * _spread(z)).clamp(min=eps) for z in (student, teacher))
    rows = kl_divergence(_centred(student) / ours, _centred(teacher) / theirs, reduction="none")
    value = reduce_rows(theirs.squeeze(-1) ** 2 * rows, student.shape[-1], reduction)
    return value.to(result_dtype(student_logits))


def _spread(logits: Tensor) -> Tensor:
    """Unbiased standard deviation over classes, ``[*batch, 1]``; gradient 0 where it is 0."""
    centred = logits - logits.mean(dim=-1, keepdim=True)
    variance = centred.square().sum(dim=-1, keepdim=True) / (logits.shape[-1] - 1)
    flat = variance == 0
    return torch.where(flat, 0.0, torch.where(flat, 1.0, variance).sqrt())
