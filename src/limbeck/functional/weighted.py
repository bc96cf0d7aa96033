"""Soft labels weighted sample by sample."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.functional._common import (
    IGNORE,
    Reduction,
    check_class_indices,
    check_positive,
    check_same_shape,
    reduce_rows,
    result_dtype,
    working_dtype,
)
from limbeck.functional.divergence import kl_divergence, soft_cross_entropy
from limbeck.functional.task import cross_entropy


def wsld(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    targets: Int[Tensor, "*batch"],
    *,
    temperature: float = 2.0,
    entropy: bool = True,
    eps: float = 1e-7,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """T² · mean(w · H(p, q)), w = 1 - exp(-CE_student / CE_teacher), of Zhou et al. (2102.00650).

    Samples that the student already fits better than the teacher get little of the teacher (they
    are "regularisation samples", which trade bias for variance). The weight is fixed: no gradient
    flows through it.

    Args:
        student_logits: ``[*batch, classes]``.
        teacher_logits: ``[*batch, classes]``; fixed, receives no gradient.
        targets: class indices ``[*batch]``; a sample without a label (-100) has no weight, and
            counts in full.
        temperature: T > 0 of the soft term; the weight is taken at 1.
        entropy: cross-entropy to the teacher, as the authors' code has it; False: KL divergence,
            which is smaller by the teacher's entropy and has the same gradient.
        eps: added to the teacher's cross-entropy.
        reduction: see ``Reduction``.

    Raises:
        ValueError: shapes differ, temperature or reduction is invalid.
    """
    check_same_shape(student_logits, teacher_logits, "logits")
    check_class_indices(student_logits, targets)
    check_positive("temperature", temperature)
    dtype = working_dtype(student_logits, teacher_logits)
    student, teacher = student_logits.to(dtype), teacher_logits.detach().to(dtype)
    weight = wsld_weight(student, teacher, targets, eps=eps)
    if entropy:
        soft = (teacher / temperature).softmax(dim=-1)
        rows = soft_cross_entropy(student / temperature, soft, reduction="none")
    else:
        rows = kl_divergence(
            student / temperature, teacher / temperature, temperature=1.0, reduction="none"
        )
    value = reduce_rows(temperature**2 * weight * rows, student.shape[-1], reduction)
    return value.to(result_dtype(student_logits))


def wsld_weight(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    targets: Int[Tensor, "*batch"],
    *,
    eps: float = 1e-7,
) -> Float[Tensor, "*batch"]:
    """Weights of ``wsld`` per sample, in [0, 1], without a gradient; 1 without a label."""
    ours = cross_entropy(student_logits.detach(), targets, reduction="none")
    theirs = cross_entropy(teacher_logits.detach(), targets, reduction="none")
    weight = 1 - torch.exp(-ours / (theirs + eps))
    return torch.where(targets == IGNORE, 1.0, weight)
