"""The overhaul of feature distillation: a partial distance before the ReLU, with margins."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional._common import check_same_shape
from limbeck.functional._maps import pooled_pair

RARE = 1e-3  # responses below 0 that are rarer than this say nothing of their own mean


def batch_norm_margin(
    weight: Float[Tensor, " channels"], bias: Float[Tensor, " channels"]
) -> Float[Tensor, " channels"]:
    """Mean of the negative responses that a batch norm lets one expect (Heo et al. 1904.01866).

    Each channel is taken as normal with standard deviation |weight| and mean bias: the margin is
    E[x | x < 0], or -3 |weight| where responses below 0 are rarer than 1 in 1000.

    Args:
        weight: γ of the norm; a channel with 0 is the constant ``bias``.
        bias: β of the norm.

    Returns:
        Float64 ``[channels]``, not above 0.

    Raises:
        ValueError: shapes differ.
    """
    if weight.shape != bias.shape:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)} and bias {tuple(bias.shape)}; expected the "
            "same shape"
        )
    deviation, mean = weight.detach().double().abs(), bias.detach().double()
    ratio = mean / torch.where(deviation == 0, 1.0, deviation)
    share = torch.special.ndtr(-ratio)
    density = (-ratio.square() / 2).exp() / math.sqrt(2 * math.pi)
    expected = mean - deviation * density / share.clamp(min=RARE)
    margin = torch.where(share > RARE, expected, -3 * deviation)
    return torch.where(deviation == 0, mean.clamp(max=0), margin)


def margin_distance(
    student_feature: Float[Tensor, "batch channels _ _"],
    teacher_feature: Float[Tensor, "batch channels _ _"],
    margin: Float[Tensor, " channels"],
) -> Float[Tensor, ""]:
    """Partial squared distance to max(teacher, margin) (Heo et al. 1904.01866).

    Where the teacher is positive the distance is the square of the difference; where it is not, a
    student at or below the target max(t, m) costs nothing. Summed over channels and positions,
    mean over samples.

    Args:
        student_feature: ``[batch, channels, height, width]`` before its ReLU, after the connector.
        teacher_feature: the same samples and channels before the ReLU; receives no gradient. Maps
            of different sizes are average-pooled to the smaller one.
        margin: ``[channels]``, not above 0: what a negative response of the teacher is worth.

    Returns:
        A scalar; 0 for an empty batch.

    Raises:
        ValueError: these are no maps of the same samples and channels.
    """
    ours, theirs = pooled_pair(student_feature, teacher_feature)
    check_same_shape(ours, theirs, "features")
    target = torch.maximum(theirs, margin.detach().to(theirs)[:, None, None])
    gap = ours - target
    counts = (theirs > 0) | (gap > 0)
    return torch.where(counts, gap, 0.0).square().sum() / max(len(gap), 1)
