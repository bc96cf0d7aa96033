"""Several teachers, weighed sample by sample."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.functional._common import (
    IGNORE,
    Reduction,
    check_positive,
    check_same_shape,
    reduce_rows,
    result_dtype,
    working_dtype,
)
from limbeck.functional.divergence import kl_divergence
from limbeck.functional.task import cross_entropy


def teacher_confidence(
    teacher_logits: Float[Tensor, "teachers batch classes"], targets: Int[Tensor, " batch"]
) -> Float[Tensor, "teachers batch"]:
    """Weights of CA-MKD (Zhang et al. 2201.00007): ``(1 - softmax_k(CE_k)) / (K - 1)``.

    CE_k is the cross-entropy of teacher k on the sample's label: who is surer of the label counts
    more. Over the teachers the weights sum to 1, and none is above 1 / (K - 1).

    Args:
        teacher_logits: of K teachers, ``[teachers, batch, classes]``.
        targets: class indices ``[batch]``; without a label (-100) all teachers count alike.

    Returns:
        ``[teachers, batch]``, without a gradient; 1 for a teacher alone.

    Raises:
        ValueError: shapes do not fit.
    """
    count = len(teacher_logits)
    fixed = teacher_logits.detach()
    if count == 1:
        return torch.ones(fixed.shape[:-1], dtype=working_dtype(fixed), device=fixed.device)
    errors = torch.stack(
        [cross_entropy(one, targets, reduction="none") for one in fixed.to(working_dtype(fixed))]
    )
    weights = (1 - errors.softmax(dim=0)) / (count - 1)
    return torch.where(targets == IGNORE, 1 / count, weights)


def multi_teacher_kd(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "teachers batch classes"],
    weights: Float[Tensor, "teachers batch"],
    *,
    temperature: float = 4.0,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """Sum over teachers k of w_k · T² · KL(teacher k ‖ student), w_k a number for each sample.

    It pulls the student towards each teacher; an ensemble's merged logits pull it towards their
    mean. For weights that sum to 1 the gradient is that of KD from the mean of the softened
    probabilities.

    Args:
        student_logits: ``[batch, classes]``.
        teacher_logits: ``[teachers, batch, classes]``; fixed, receive no gradient.
        weights: ``[teachers, batch]``; fixed.
        temperature: T > 0, of all sides.
        reduction: see ``Reduction``.

    Raises:
        ValueError: shapes differ, temperature or reduction is invalid.
    """
    check_positive("temperature", temperature)
    for one in teacher_logits:
        check_same_shape(student_logits, one, "logits")
    if weights.shape != teacher_logits.shape[:-1]:
        raise ValueError(
            f"weights have shape {tuple(weights.shape)}; expected "
            f"{tuple(teacher_logits.shape[:-1])}, one for each teacher and sample"
        )
    dtype = working_dtype(student_logits, teacher_logits)
    student, weights = student_logits.to(dtype), weights.detach().to(dtype)
    rows = torch.zeros(student.shape[:-1], dtype=dtype, device=student.device)
    for weight, one in zip(weights, teacher_logits.detach().to(dtype), strict=True):
        rows = rows + weight * kl_divergence(
            student, one, temperature=temperature, reduction="none"
        )
    value = reduce_rows(rows, student.shape[-1], reduction)
    return value.to(result_dtype(student_logits))
