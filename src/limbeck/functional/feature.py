"""Losses on features."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.functional._common import check_choice, check_same_shape, result_dtype

Normaliser = Literal["elementwise", "half_sum"]


def hint(
    student_feature: Float[Tensor, " batch *feature"],
    teacher_feature: Float[Tensor, " batch *feature"],
    *,
    normaliser: Normaliser = "elementwise",
    mask: Bool[Tensor, "batch positions"] | None = None,
) -> Float[Tensor, ""]:
    """FitNet's hint loss (Romero et al. 1412.6550, eq. 3): squared error of two features.

    Args:
        student_feature: ``[batch, ...]``, after the regressor that fits it to the teacher's shape.
        teacher_feature: ``[batch, ...]``; fixed, receives no gradient.
        normaliser: ``elementwise``: mean over samples and all entries (as RepDistiller and
            mdistiller divide, and their weight of 100 assumes); ``half_sum``: ½‖·‖² per sample,
            mean over samples (the paper's form).
        mask: which positions of ``[batch, positions, ...]`` count (tokens that are no padding);
            None: all. ``elementwise`` is then the mean over a sample's own positions, averaged
            over samples: short and long samples count alike, however they are batched.

    Returns:
        A scalar; 0 for an empty batch.

    Raises:
        ValueError: shapes differ or do not fit the mask, or normaliser is unknown.
    """
    check_choice("normaliser", normaliser, Normaliser)
    check_same_shape(student_feature, teacher_feature, "features")
    dtype = result_dtype(student_feature)
    gap = student_feature.to(dtype) - teacher_feature.detach().to(dtype)
    return squared_gap(gap, mask, normaliser)


def squared_gap(gap: Tensor, mask: Tensor | None, normaliser: Normaliser) -> Tensor:
    """Return the squared length of a difference of features, as ``hint`` counts it."""
    if mask is not None:
        return _masked_hint(gap, mask, normaliser)
    total = torch.sum(gap * gap)
    if normaliser == "elementwise":
        return total / max(gap.numel(), 1)
    return total / (2 * max(len(gap), 1))


def _masked_hint(gap: Tensor, mask: Tensor, normaliser: Normaliser) -> Tensor:
    if mask.shape != gap.shape[:2]:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}; expected {tuple(gap.shape[:2])}, one entry for "
            f"each position of features of shape {tuple(gap.shape)}"
        )
    kept = gap.flatten(2) if gap.ndim > 2 else gap.unsqueeze(2)
    # zeroed before it is squared: what stands at padding, even NaN, reaches no gradient
    kept = torch.where(mask.unsqueeze(2), kept, 0.0)
    rows = torch.sum(kept * kept, dim=(1, 2))
    if normaliser == "elementwise":
        rows = rows / (mask.sum(dim=1) * kept.shape[2]).clamp(min=1)
    else:
        rows = rows / 2
    return torch.sum(rows) / max(len(rows), 1)
