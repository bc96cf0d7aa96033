"""Correlation congruence: how samples stand to each other in both feature spaces."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.functional._common import check_positive, check_same_shape, result_dtype
from limbeck.functional._maps import mean_of


def neighbour_congruence(
    student_embedding: Float[Tensor, "batch dim"], teacher_embedding: Float[Tensor, "batch dim"]
) -> Float[Tensor, ""]:
    """The authors' short form: gaps of one sample, times those of the next sample in the batch.

    ``mean_i Σ_d δ_id δ_(i+1)d`` with δ = |student - teacher|. It depends on the order of the batch,
    and is 0 for fewer than two samples.

    Args:
        student_embedding: ``[batch, dim]``.
        teacher_embedding: ``[batch, dim]``; a learned map of the teacher's features, so gradients
            run to it.

    Raises:
        ValueError: shapes differ.
    """
    check_same_shape(student_embedding, teacher_embedding, "embeddings")
    dtype = result_dtype(student_embedding)
    gap = (student_embedding.to(dtype) - teacher_embedding.to(dtype)).abs()
    return mean_of((gap[:-1] * gap[1:]).sum(dim=1))


def correlation_congruence(
    student_feature: Float[Tensor, "batch _"],
    teacher_feature: Float[Tensor, "batch _"],
    *,
    gamma: float = 0.4,
    order: int | None = 2,
) -> Float[Tensor, ""]:
    """Squared difference of two correlation matrices (Peng et al. 1904.01802), over B².

    Entries are a Gaussian kernel exp(-γ ‖f_i - f_j‖²) of features scaled to length 1, expanded in
    powers of f_i·f_j: exp(-2γ) Σ_p (2γ)^p / p! (f_i·f_j)^p.

    Args:
        student_feature: ``[batch, ...]`` flattened to rows; the two may differ in length.
        teacher_feature: the same samples; receives no gradient.
        gamma: γ, above 0.
        order: highest power of the expansion; None: the kernel itself.

    Returns:
        A scalar; 0 for an empty batch.

    Raises:
        ValueError: not the same number of samples, or a value without a meaning.
    """
    if len(student_feature) != len(teacher_feature):
        raise ValueError(
            f"features are of {len(student_feature)} samples (student) and {len(teacher_feature)} "
            "(teacher); expected the same samples"
        )
    check_positive("gamma", gamma)
    if order is not None and order < 1:
        raise ValueError(f"order is {order}; expected a whole number of at least 1, or None")
    both = (student_feature, teacher_feature.detach())
    ours, theirs = (_correlations(x.to(result_dtype(x)), gamma, order) for x in both)
    return mean_of((ours - theirs).square())


def _correlations(rows: Tensor, gamma: float, order: int | None) -> Tensor:
    unit = nn.functional.normalize(rows, dim=1)
    cosines = unit @ unit.mT
    if order is None:
        return torch.exp(2 * gamma * (cosines - 1))
    terms = ((2 * gamma) ** p / math.factorial(p) * cosines.pow(p) for p in range(1, order + 1))
    return math.exp(-2 * gamma) * (1 + torch.stack(list(terms)).sum(dim=0))
