"""Normalised knowledge distillation: the label's probability, and the others made to sum to one."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.functional._common import (
    IGNORE,
    Reduction,
    check_class_indices,
    check_min_classes,
    check_positive,
    check_same_shape,
    reduce_rows,
    result_dtype,
    working_dtype,
)
from limbeck.functional.decoupled import _apart
from limbeck.functional.divergence import _centred


def nkd(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    targets: Int[Tensor, "*batch"],
    *,
    gamma: float = 1.5,
    temperature: float = 1.0,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """The two soft terms of NKD, Yang et al. (2303.13005).

    ``-p_y log q_y - γ T² Σ_{k≠y} p̂_k log q̂_k``: the label at temperature 1; p̂ and q̂ are the
    distributions among the other classes, at temperature T. Both are cross-entropies, so the value
    is not zero where student equals teacher; the second one's gradient is.

    Args:
        student_logits: ``[*batch, classes]``.
        teacher_logits: ``[*batch, classes]``; fixed, receives no gradient.
        targets: class indices ``[*batch]``; a sample without a label (-100) costs 0.
        gamma: weight γ of the other classes, at least 0.
        temperature: T > 0 of the other classes.
        reduction: see ``Reduction``; ``batchmean`` is the mean over all samples.

    Raises:
        ValueError: shapes differ, fewer than 2 classes, temperature or reduction is invalid.
    """
    check_same_shape(student_logits, teacher_logits, "logits")
    check_positive("temperature", temperature)
    check_class_indices(student_logits, targets)
    check_min_classes(student_logits, 2)
    dtype = working_dtype(student_logits, teacher_logits)
    x, y = _centred(student_logits.to(dtype)), _centred(teacher_logits.detach().to(dtype))
    known = targets != IGNORE
    label = torch.where(known, targets, 0).long()[..., None]
    log_q, log_p = (_apart(logits, label)[0][..., 0] for logits in (x, y))
    rest_q, rest_p = (_apart(logits / temperature, label)[1] for logits in (x, y))
    others = -(rest_p.exp() * rest_q.scatter(-1, label, 0.0)).sum(dim=-1)
    rows = gamma * temperature**2 * others - log_p.exp() * log_q
    value = reduce_rows(rows.where(known, 0.0), x.shape[-1], reduction)
    return value.to(result_dtype(student_logits))
