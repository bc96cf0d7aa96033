"""Attention transfer: where a layer looks, whatever its channels are."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from limbeck.functional._common import check_choice, check_positive, result_dtype
from limbeck.functional._maps import mean_of, pooled_pair

AttentionDistance = Literal["elementwise", "norm"]


def attention_map(
    feature: Float[Tensor, "batch channels height width"], *, power: int = 2
) -> Float[Tensor, "batch positions"]:
    """Mean over the channels of ``feature ** power``, as a row of length 1 for each sample.

    The power keeps its sign: with an odd one, negative responses count against positive ones.

    Args:
        feature: ``[batch, channels, height, width]``.
        power: a whole number of at least 1.

    Returns:
        ``[batch, height · width]``; a row of zeros where the map is zero.

    Raises:
        ValueError: power is not positive.
    """
    check_positive("power", power)
    wide = feature.to(result_dtype(feature))
    rows = wide.pow(power).mean(dim=1).flatten(1)
    return nn.functional.normalize(rows, dim=1)


def attention_transfer(
    student_feature: Float[Tensor, "batch _ _ _"],
    teacher_feature: Float[Tensor, "batch _ _ _"],
    *,
    power: int = 2,
    distance: AttentionDistance = "elementwise",
) -> Float[Tensor, ""]:
    """Distance of two attention maps (Zagoruyko and Komodakis 1612.03928).

    Maps of different sizes are average-pooled to the smaller one first. The numbers of channels
    may differ.

    Args:
        student_feature: ``[batch, channels, height, width]``.
        teacher_feature: the same samples, any channels and size; receives no gradient.
        power: of the responses, a whole number of at least 1.
        distance: ``elementwise``: mean of squared differences over samples and positions, as the
            authors' code has it; ``norm``: Euclidean length of the difference of each sample, not
            squared, mean over samples.

    Returns:
        A scalar; 0 for an empty batch. Scaling a sample's map by a positive number changes nothing.

    Raises:
        ValueError: these are no maps of the same samples, or an unknown distance.
    """
    check_choice("distance", distance, AttentionDistance)
    ours, theirs = pooled_pair(student_feature, teacher_feature)
    gap = attention_map(ours, power=power) - attention_map(theirs, power=power)
    return mean_of(gap.square() if distance == "elementwise" else gap.norm(dim=1))
