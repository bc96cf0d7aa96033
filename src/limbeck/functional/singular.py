"""KD-SVD: the main directions of each layer, and how they go with those of the layer before."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.functional._common import check_positive, working_dtype
from limbeck.functional._maps import check_maps

EXTRA = 3  # more directions of the student than of the teacher, to choose from


def singular_directions(
    feature: Float[Tensor, "batch channels height width"], *, rank: int = 1
) -> tuple[Float[Tensor, "batch channels _"], Float[Tensor, "batch _"]]:
    """Right singular vectors and singular values of a layer, positions as rows, largest first.

    The sign of a vector is free in the decomposition; here the sum of its entries is not negative.
    Gradients run through the vectors alone, and only where singular values differ: directions that
    cannot be told apart, such as those of dead channels, give none.

    Args:
        feature: ``[batch, channels, height, width]``.
        rank: how many, at least 1; fewer where there are fewer channels or positions.

    Returns:
        Vectors ``[batch, channels, rank]`` of length 1 and values ``[batch, rank]``.

    Raises:
        ValueError: rank is not positive.
    """
    check_positive("rank", rank)
    rows = feature.to(working_dtype(feature)).flatten(2)
    rank = min(rank, *rows.shape[1:])
    squares, vectors = _Eigen.apply(rows @ rows.mT)  # type: ignore[no-untyped-call]
    vectors = vectors.flip(-1)[..., :rank]
    values = squares.detach().flip(-1)[..., :rank].clamp(min=0).sqrt()
    signs = torch.where(vectors.detach().sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
    return vectors * signs, values


def singular_flow(
    student_features: Sequence[Float[Tensor, "batch _ _ _"]],
    teacher_features: Sequence[Float[Tensor, "batch _ _ _"]],
    *,
    rank: int = 1,
) -> Float[Tensor, ""]:
    """Squared error of the relations between consecutive layers' directions (Lee et al. 2018).

    For each layer the teacher's ``rank`` main directions, and of the student's ``rank`` + 3 those
    most alike, by the size of the cosine and turned to its sign; both times the teacher's singular
    values, scaled to length 1 as a vector. The relation of two layers is exp(-(a - b)² / 8) for
    every pair of entries a, b of a direction in the one and the other.

    Args:
        student_features: two or more layers in order, ``[batch, channels, height, width]`` each.
        teacher_features: the layers they learn from, as many, with the same numbers of channels,
            of any size; they receive no gradient.
        rank: directions of each layer, at least 1.

    Returns:
        A scalar, summed over entries and pairs of layers, mean over samples; 0 for an empty batch.

    Raises:
        ValueError: fewer than two layers, or not as many; channels differ; rank is not positive.
    """
    if len(student_features) != len(teacher_features) or len(student_features) < 2:
        raise ValueError(
            f"there are {len(student_features)} layers of the student and {len(teacher_features)} "
            "of the teacher; expected as many of both, at least 2"
        )
    check_positive("rank", rank)
    scaled = [
        _aligned(s, t.detach(), rank)
        for s, t in zip(student_features, teacher_features, strict=True)
    ]
    values = []
    for (student_before, teacher_before), (student, teacher) in pairwise(scaled):
        gap = _relation(student_before, student) - _relation(teacher_before, teacher)
        values.append(gap.square().sum() / max(len(gap), 1))
    return (
        torch.stack(values).sum().to(torch.promote_types(student_features[0].dtype, torch.float32))
    )


def _aligned(student: Tensor, teacher: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    check_maps(student, teacher)
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"features have {student.shape[1]} channels (student) and {teacher.shape[1]} "
            "(teacher); expected the same number"
        )
    theirs, strengths = singular_directions(teacher, rank=rank)
    ours, _ = singular_directions(student, rank=rank + EXTRA)
    cosines = ours.detach().mT @ theirs
    sizes = cosines.abs()
    chosen = torch.where(sizes == sizes.amax(dim=1, keepdim=True), cosines.sign(), 0.0)
    scale = nn.functional.normalize(strengths, dim=1).unsqueeze(1)
    return (ours @ chosen) * scale, theirs * scale


def _relation(before: Tensor, after: Tensor) -> Tensor:
    """Return ``[batch, channels after, channels before, rank]``; of the ranks that both have."""
    rank = min(before.shape[2], after.shape[2])
    gap = after[..., :rank].unsqueeze(2) - before[..., :rank].unsqueeze(1)
    return torch.exp(-gap.square() / 8)


class _Eigen(torch.autograd.Function):
    """Eigenvalues and eigenvectors of symmetric matrices; equal eigenvalues give no gradient.

    torch's own gives NaN there, and dead channels make equal eigenvalues of 0 in any real layer.
    The backward is made of both, and so has a derivative in its turn.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return values in ascending order, and vectors as columns."""
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        """Keep both."""
        ctx.save_for_backward(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> Tensor | None:
        """Return the slope at the matrix from those at values and vectors."""
        values, vectors = ctx.saved_tensors
        at_values, at_vectors = slopes
        inner = None
        if at_vectors is not None:
            gaps = values.unsqueeze(-2) - values.unsqueeze(-1)
            floor = values.abs().amax(dim=-1)[..., None, None] * torch.finfo(values.dtype).eps * 8
            apart = gaps.abs() > floor
            inverse = torch.where(apart, 1 / torch.where(apart, gaps, 1.0), 0.0)
            inner = inverse * (vectors.mT @ at_vectors)
        if at_values is not None:
            along = torch.diag_embed(at_values)
            inner = along if inner is None else inner + along
        if inner is None:
            return None
        slope: Tensor = vectors @ inner @ vectors.mT
        return (slope + slope.mT) / 2
