"""Variational information distillation: a Gaussian guess of the teacher's features."""

import math

from jaxtyping import Float
from torch import Tensor, nn

from limbeck.functional._common import check_positive
from limbeck.functional._maps import mean_of, pooled_pair


def variational_information(
    predicted_mean: Float[Tensor, "batch channels _ _"],
    teacher_feature: Float[Tensor, "batch channels _ _"],
    scale: Float[Tensor, " channels"],
    *,
    epsilon: float = 1e-5,
) -> Float[Tensor, ""]:
    """Negative log-likelihood of the teacher's features (Ahn et al. 1904.05835), no constant.

    ½ ((μ - t)² / v + log v) with one variance v = softplus(scale) + epsilon for each channel; the
    mean over samples, channels and positions. A bound on the mutual information of the two layers,
    not a distance: it may be negative, and where the guess is exact it falls with the variance.

    Args:
        predicted_mean: μ, ``[batch, channels, height, width]``, predicted from the student.
        teacher_feature: the same samples and channels; receives no gradient. Maps of different
            sizes are average-pooled to the smaller one.
        scale: ``[channels]``, any real numbers; learned.
        epsilon: least variance, above 0.

    Raises:
        ValueError: these are no maps of the same samples and channels, or epsilon is not positive.
    """
    check_positive("epsilon", epsilon)
    mean, target = pooled_pair(predicted_mean, teacher_feature)
    if mean.shape != target.shape or scale.shape != mean.shape[1:2]:
        raise ValueError(
            f"predicted mean, feature and scale have {mean.shape[1]}, {target.shape[1]} and "
            f"{tuple(scale.shape)} channels; expected the same number"
        )
    variance = nn.functional.softplus(scale.to(mean.dtype)) + epsilon
    variance = variance[:, None, None]
    return mean_of(((mean - target).square() / variance + variance.log()) / 2)


def scale_of_variance(variance: float, *, epsilon: float = 1e-5) -> float:
    """Return the ``scale`` at which ``variational_information`` has this variance.

    Raises:
        ValueError: the variance is not above epsilon.
    """
    if not variance > epsilon:
        raise ValueError(f"variance is {variance}; expected more than epsilon, {epsilon}")
    rest = variance - epsilon
    return rest + math.log(-math.expm1(-rest))
