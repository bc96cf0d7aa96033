"""The teacher's answer as a target that is made the surer of the label, the less it says else."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.functional._common import (
    IGNORE,
    Reduction,
    check_class_indices,
    check_positive,
    reduce_rows,
    result_dtype,
)
from limbeck.functional.divergence import _tempered


def ofa(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    targets: Int[Tensor, "*batch"],
    *,
    gamma: float = 1.0,
    temperature: float = 1.0,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """Cross-entropy with adaptively enhanced targets (Hao et al. 2310.19444), as in their code.

    ``-Σ_k t_k log q_k``, with ``t_k = p_k^γ`` for other classes and ``t_y = (1 + p_y)^γ - 1`` for
    the label. With γ = 1 this is cross-entropy with the teacher's answer; a larger one raises the
    label's share and lowers that of the others. There is no factor of T².

    Args:
        student_logits: ``[*batch, classes]``.
        teacher_logits: ``[*batch, classes]``; fixed, receives no gradient.
        targets: class indices ``[*batch]``; a sample without a label (-100) costs 0.
        gamma: γ > 0.
        temperature: T > 0, of both sides.
        reduction: see ``Reduction``; ``batchmean`` is the mean over all samples.

    Raises:
        ValueError: shapes differ, or gamma, temperature or reduction is invalid.
    """
    check_positive("gamma", gamma)
    check_class_indices(student_logits, targets)
    x, y = _tempered(student_logits, teacher_logits, temperature)
    known = targets != IGNORE
    label = torch.where(known, targets, 0).long()[..., None]
    p = y.softmax(dim=-1)
    enhanced = torch.expm1(gamma * torch.log1p(p.gather(-1, label)))
    wanted = (p**gamma).scatter(-1, label, enhanced)
    rows = -(wanted * x.log_softmax(dim=-1).masked_fill(wanted == 0, 0.0)).sum(dim=-1)
    value = reduce_rows(rows.where(known, 0.0), x.shape[-1], reduction)
    return value.to(result_dtype(student_logits))
