"""Losses on features."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional._common import check_choice, check_same_shape, result_dtype

Normaliser = Literal["elementwise", "half_sum"]


def hint(
    student_feature: Float[Tensor, " batch *feature"],
    teacher_feature: Float[Tensor, " batch *feature"],
    *,
    normaliser: Normaliser = "elementwise",
) -> Float[Tensor, ""]:
    """FitNet's hint loss (Romero et al. 1412.6550, eq. 3): squared error of two features.

    Args:
        student_feature: ``[batch, ...]``, after the regressor that fits it to the teacher's shape.
        teacher_feature: ``[batch, ...]``; fixed, receives no gradient.
        normaliser: ``elementwise``: mean over samples and all entries (as RepDistiller and
            mdistiller divide, and their weight of 100 assumes); ``half_sum``: ½‖·‖² per sample,
            mean over samples (the paper's form).

    Returns:
        A scalar; 0 for an empty batch.

    Raises:
        ValueError: shapes differ or normaliser is unknown.
    """
    check_choice("normaliser", normaliser, Normaliser)
    check_same_shape(student_feature, teacher_feature, "features")
    dtype = result_dtype(student_feature)
    gap = student_feature.to(dtype) - teacher_feature.detach().to(dtype)
    total = torch.sum(gap * gap)
    if normaliser == "elementwise":
        return total / max(gap.numel(), 1)
    return total / (2 * max(len(gap), 1))
