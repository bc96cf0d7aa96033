"""Correlations of probabilities: between the samples of a batch, and between classes over it."""

from jaxtyping import Float
from torch import Tensor

from limbeck.functional._common import result_dtype
from limbeck.functional.divergence import _tempered


def batch_correlation(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """‖P_T P_Tᵀ - P_S P_Sᵀ‖² / batch: which samples are alike (Jin et al., CVPR 2023).

    Args:
        student_logits: ``[batch, classes]``.
        teacher_logits: ``[batch, classes]``; fixed, receives no gradient.
        temperature: T > 0 of the softmax that gives P. There is no factor of T².

    Raises:
        ValueError: shapes differ or temperature is not positive.
    """
    q, p = (z.softmax(dim=-1) for z in _tempered(student_logits, teacher_logits, temperature))
    value = (p @ p.T - q @ q.T).square().sum() / max(len(q), 1)
    return value.to(result_dtype(student_logits))


def class_correlation(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """‖P_Tᵀ P_T - P_Sᵀ P_S‖² / classes: which classes go together (Jin et al., CVPR 2023).

    The matrices are not formed where there are more classes than samples: with ``D = P_S - P_T``
    the norm is a sum over products of ``[batch, batch]``, linear in classes.

    Arguments and errors as in ``batch_correlation``.
    """
    q, p = (z.softmax(dim=-1) for z in _tempered(student_logits, teacher_logits, temperature))
    batch, classes = q.shape
    if classes <= batch:
        total = (p.T @ p - q.T @ q).square().sum()
    else:
        # QᵀQ - PᵀP = QᵀD + DᵀP, and ‖XᵀY‖² = <XXᵀ, YYᵀ>
        d = q - p
        own = d @ d.T
        total = (own * (q @ q.T + p @ p.T)).sum() + 2 * ((q @ d.T) * (d @ p.T)).sum()
    return (total / classes).to(result_dtype(student_logits))
