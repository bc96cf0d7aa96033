"""Decoupled knowledge distillation: the label's share and the order of the others, apart."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.functional._common import (
    IGNORE,
    Reduction,
    check_class_indices,
    check_min_classes,
    reduce_rows,
    result_dtype,
)
from limbeck.functional.divergence import _kl_rows, _tempered


def dkd(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    targets: Int[Tensor, "*batch"],
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """T² (α · TCKD + β · NCKD) of Zhao et al. (2203.08679), eq. 7.

    TCKD is the KL divergence of (label, all others); NCKD that of the classes other than the
    label, made to sum to one. ``KL(p ‖ q) = TCKD + (1 - p_label) NCKD``, so plain KD ties the
    weight of NCKD to how unsure the teacher is.

    Args:
        student_logits: ``[*batch, classes]``.
        teacher_logits: ``[*batch, classes]``; fixed, receives no gradient.
        targets: class indices ``[*batch]``; a sample without a label (-100) costs 0.
        alpha: weight of TCKD, at least 0.
        beta: weight of NCKD, at least 0.
        temperature: T > 0.
        reduction: see ``Reduction``; ``batchmean`` is the mean over all samples.

    Raises:
        ValueError: shapes differ, fewer than 2 classes, temperature or reduction is invalid.
    """
    label, others = decoupled_kl(student_logits, teacher_logits, targets, temperature=temperature)
    rows = alpha * label + beta * others
    value = reduce_rows(temperature**2 * rows, student_logits.shape[-1], reduction)
    return value.to(result_dtype(student_logits))


def decoupled_kl(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    targets: Int[Tensor, "*batch"],
    *,
    temperature: float = 1.0,
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """(TCKD, NCKD) per sample in working precision, without T² and weights; see ``dkd``.

    The label is taken out in log space, so that both stay exact where softmax has underflowed.

    Raises:
        ValueError: as in ``dkd``.
    """
    x, y = _tempered(student_logits, teacher_logits, temperature)
    check_class_indices(student_logits, targets)
    check_min_classes(student_logits, 2)
    known = targets != IGNORE
    label = torch.where(known, targets, 0).long()[..., None]
    binary, rest = zip(*(_apart(logits, label) for logits in (x, y)), strict=True)
    tckd = _kl_rows(binary[0], binary[1], binary[1].exp())
    nckd = _kl_rows(rest[0], rest[1], rest[1].exp())
    return tckd.where(known, 0.0), nckd.where(known, 0.0)


def _apart(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (label, others), ``[*batch, 2]``, and of each class among the others.

    Among the others the label has no mass: its logit is -inf and receives no gradient.
    """
    others = logits.scatter(-1, label, -torch.inf)
    pair = torch.cat([logits.gather(-1, label), others.logsumexp(dim=-1, keepdim=True)], dim=-1)
    return pair.log_softmax(dim=-1), others.log_softmax(dim=-1)
