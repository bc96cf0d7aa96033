"""The teacher's softened answer as a label: cross-entropy where others take the divergence."""

from jaxtyping import Float
from torch import Tensor

from limbeck.functional._common import Reduction, reduce_rows, result_dtype
from limbeck.functional.divergence import _tempered


def kd_cross_entropy(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    *,
    temperature: float = 1.0,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """``-Σ_k p_k log q_k`` with p and q at temperature T; there is no factor of T².

    It is ``kd`` without T² plus the entropy of p: the same gradient, but not zero at equality.

    Args:
        student_logits: ``[*batch, classes]``.
        teacher_logits: ``[*batch, classes]``; fixed, receives no gradient.
        temperature: T > 0, of both sides.
        reduction: see ``Reduction``.

    Raises:
        ValueError: shapes differ, temperature is not positive, or reduction is unknown.
    """
    x, y = _tempered(student_logits, teacher_logits, temperature)
    p, log_q = y.softmax(dim=-1), x.log_softmax(dim=-1)
    rows = -(p * log_q.masked_fill(p == 0, 0.0)).sum(dim=-1)
    return reduce_rows(rows, x.shape[-1], reduction).to(result_dtype(student_logits))
