"""Centered kernel alignment: how alike two layers see the samples of a batch."""

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional._common import result_dtype
from limbeck.functional.relation import _gram, _rows

FEWEST = 4
"""Samples that the unbiased estimate needs."""


def cka(
    student_feature: Float[Tensor, " batch *feature"],
    teacher_feature: Float[Tensor, " batch *other"],
    *,
    debiased: bool = False,
) -> Float[Tensor, ""]:
    """Linear centered kernel alignment (Kornblith et al. 1905.00414, eq. 3).

    ``<K, L> / (‖K‖ ‖L‖)`` of the centred Gram matrices ``K`` and ``L`` of both features over the
    samples. 1 where one is a rotation or a multiple of the other, 0 where they share nothing.
    A layer with more entries than there are samples looks like any other: ``debiased`` takes that
    away, and can then be below 0.

    Args:
        student_feature: ``[batch, ...]``, flattened to one row a sample.
        teacher_feature: ``[batch, ...]``, of any size; fixed, receives no gradient.
        debiased: whether products are the unbiased estimates of the Hilbert-Schmidt independence
            criterion (their ratio need not be unbiased).

    Returns:
        A scalar; 0 where a layer is the same for all samples, as for a single sample.

    Raises:
        ValueError: the numbers of samples differ, or debiased with fewer than 4.
    """
    ours, theirs = _rows(student_feature, teacher_feature)
    mine, other = (_centred(rows, debiased) for rows in (ours, theirs))
    lengths = _length(mine) * _length(other)
    value = (mine * other).sum() / torch.where(lengths > 0, lengths, 1.0)
    return value.to(result_dtype(student_feature))


def centred_gram(
    feature: Float[Tensor, " batch *feature"], *, debiased: bool = False
) -> Float[Tensor, "batch batch"]:
    """Inner products of the samples of a layer, centred: products of two such matrices make CKA.

    Args:
        feature: ``[batch, ...]``, flattened to one row a sample.
        debiased: whether sums of products of two matrices are unbiased estimates of independence,
            but for a factor of ``batch (batch - 3)``.

    Raises:
        ValueError: debiased with fewer than 4 samples.
    """
    return _centred(_rows(feature, feature)[0], debiased)


def _centred(rows: Tensor, debiased: bool) -> Tensor:
    count = len(rows)
    if debiased and count < FEWEST:
        raise ValueError(f"there are {count} samples; the unbiased estimate needs {FEWEST}")
    if not count:
        return _gram(rows)
    # Taking the mean first changes no result, and loses no digits to a large one.
    gram = _gram(rows - rows.mean(dim=0))
    if not debiased:
        return gram
    apart = gram - torch.diag(gram.diagonal())
    means = apart.sum(dim=0) / (count - 2)
    means = means - means.sum() / (2 * (count - 1))
    centred = apart - means[:, None] - means[None, :]
    return centred - torch.diag(centred.diagonal())


def _length(matrix: Tensor) -> Tensor:
    """Return the norm, whose slope at 0 is 0."""
    square = matrix.square().sum()
    return torch.where(square > 0, square, 1.0).sqrt() * (square > 0)
