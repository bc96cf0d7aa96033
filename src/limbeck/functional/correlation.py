"""DIST: agreement up to scale and shift, per sample and per class."""

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional._common import (
    check_min_classes,
    check_positive,
    check_same_shape,
    result_dtype,
)


def pearson_distance(
    student: Float[Tensor, "rows columns"], teacher: Float[Tensor, "rows columns"]
) -> Float[Tensor, " rows"]:
    """``1 - correlation`` of each pair of rows, in [0, 2]; 1 where a row is constant.

    Args:
        student: ``[rows, columns]``.
        teacher: ``[rows, columns]``.

    Raises:
        ValueError: shapes differ.
    """
    check_same_shape(student, teacher, "rows")
    a, b = (x - x.mean(dim=1, keepdim=True) for x in (student, teacher))
    tiny = torch.finfo(a.dtype).tiny
    # Scaled first: squares of probabilities below 1e-154 would vanish.
    a, b = (x / x.detach().abs().amax(dim=1, keepdim=True).clamp(min=tiny) for x in (a, b))
    norms = [torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (a, b)]
    a, b = (x / torch.where(n == 0, 1.0, n) for x, n in zip((a, b), norms, strict=True))
    # 1 - a·b without cancellation: rows of length one; a row of length zero gives 1.
    both = (norms[0] > 0).squeeze(1) & (norms[1] > 0).squeeze(1)
    return torch.where(both, (a - b).square().sum(dim=1) / 2, 1.0)


def dist(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
    scale_by_temperature_squared: bool = True,
) -> Float[Tensor, ""]:
    """τ² (β · inter + γ · intra) of Huang et al. (2205.10536), eq. 9.

    ``inter``: mean over samples of 1 - Pearson(student row, teacher row) of the probabilities.
    ``intra``: mean over classes of the same for columns, over the samples of the batch. The loss
    is therefore not a mean over samples. A column that is constant over the batch (as each is in a
    batch of one) counts 1 and has no gradient.

    Args:
        student_logits: ``[batch, classes]``.
        teacher_logits: ``[batch, classes]``; fixed, receives no gradient.
        beta: weight of inter.
        gamma: weight of intra.
        temperature: τ > 0 of both sides.
        scale_by_temperature_squared: multiply by τ², as the authors' classification code does
            (their segmentation code does not).

    Returns:
        A scalar; 0 for an empty batch.

    Raises:
        ValueError: shapes differ, fewer than 2 classes, or temperature is not positive.
    """
    check_same_shape(student_logits, teacher_logits, "logits")
    check_positive("temperature", temperature)
    check_min_classes(student_logits, 2)
    if not len(student_logits):
        return student_logits.sum()
    # A correlation does not see how small a column is, so nothing here may underflow early.
    wide = torch.float32 if student_logits.device.type == "mps" else torch.float64
    q = (student_logits.to(wide) / temperature).softmax(dim=1)
    p = (teacher_logits.detach().to(wide) / temperature).softmax(dim=1)
    inter, intra = pearson_distance(q, p).mean(), pearson_distance(q.T, p.T).mean()
    scale = temperature**2 if scale_by_temperature_squared else 1.0
    return (scale * (beta * inter + gamma * intra)).to(result_dtype(student_logits))
