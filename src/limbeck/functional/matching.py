"""Transformed teacher matching: a softened teacher, a student as it is."""

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional._common import (
    Reduction,
    check_positive,
    check_same_shape,
    reduce_rows,
    result_dtype,
    working_dtype,
)
from limbeck.functional.divergence import _centred, kl_divergence


def ttm(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    *,
    gamma: float = 0.1,
    weighted: bool = False,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """KL(p^γ / Σ p^γ ‖ q) of Zheng and Yang (2402.11148): the teacher alone is softened.

    With ``weighted`` (WTTM) each sample counts by ``U_γ = Σ_k p_k^γ``, which is large where the
    teacher's distribution is flat. There is no factor of T², γ being 1/T.

    Args:
        student_logits: ``[*batch, classes]``, at temperature 1.
        teacher_logits: ``[*batch, classes]``; fixed, receives no gradient.
        gamma: the power γ > 0; 1 leaves the teacher as it is.
        weighted: weigh each sample by its power sum.
        reduction: see ``Reduction``.

    Raises:
        ValueError: shapes differ, gamma or reduction is invalid.
    """
    check_same_shape(student_logits, teacher_logits, "logits")
    check_positive("gamma", gamma)
    dtype = working_dtype(student_logits, teacher_logits)
    student, teacher = student_logits.to(dtype), teacher_logits.detach().to(dtype)
    rows = kl_divergence(student, gamma * teacher, reduction="none")
    if weighted:
        rows = rows * power_sum(teacher, gamma=gamma)
    value = reduce_rows(rows, student.shape[-1], reduction)
    return value.to(result_dtype(student_logits))


def power_sum(logits: Float[Tensor, "*batch classes"], *, gamma: float) -> Float[Tensor, "*batch"]:
    """``Σ_k softmax(logits)_k^γ`` per sample, from 1 (γ = 1, or certain) to ``classes^(1-γ)``."""
    z = _centred(logits)
    return torch.exp((gamma * z).logsumexp(dim=-1) - gamma * z.logsumexp(dim=-1))
