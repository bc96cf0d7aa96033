"""Knowledge review: the hierarchical context loss."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from limbeck.functional._common import check_same_shape, result_dtype
from limbeck.functional._maps import check_maps
from limbeck.functional.feature import hint
from limbeck.functional.pooling import average_pool


def hierarchical_context(
    student_feature: Float[Tensor, "batch channels height width"],
    teacher_feature: Float[Tensor, "batch channels height width"],
    *,
    sizes: Sequence[int] = (4, 2, 1),
) -> Float[Tensor, ""]:
    """Squared error at full size and of average-pooled maps (Chen et al. 2104.09044).

    The mean squared error at full size has weight 1, those of the maps pooled to ``sizes`` half of
    the one before each; the sum is divided by that of the weights. Sizes that are no smaller than
    the map are left out.

    Args:
        student_feature: ``[batch, channels, height, width]``.
        teacher_feature: the same shape; receives no gradient.
        sizes: of the pooled squares, from large to small.

    Returns:
        A scalar; 0 for an empty batch.

    Raises:
        ValueError: these are no maps, or shapes differ.
    """
    check_maps(student_feature, teacher_feature)
    check_same_shape(student_feature, teacher_feature, "features")
    ours = student_feature.to(result_dtype(student_feature))
    theirs = teacher_feature.detach().to(result_dtype(teacher_feature))
    total, weight, weights = hint(ours, theirs), 1.0, 1.0
    for size in sizes:
        if size < min(ours.shape[2:]):
            weight /= 2
            weights += weight
            total = total + weight * hint(
                average_pool(ours, size=size), average_pool(theirs, size=size)
            )
    return total / weights
