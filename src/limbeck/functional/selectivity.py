"""Neuron selectivity transfer: the distribution of channel maps, by maximum mean discrepancy."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.functional._common import check_choice, check_positive, working_dtype
from limbeck.functional._distances import distances
from limbeck.functional._maps import mean_of, pooled_pair

SelectivityKernel = Literal["poly", "gaussian", "linear"]


def neuron_selectivity(
    student_feature: Float[Tensor, "batch _ _ _"],
    teacher_feature: Float[Tensor, "batch _ _ _"],
    *,
    kernel: SelectivityKernel = "poly",
    degree: int = 2,
    bandwidth: float | None = None,
) -> Float[Tensor, ""]:
    """Squared maximum mean discrepancy of channel maps (Huang and Wang 1707.01219).

    Each channel's map is a point of length 1 in the space of positions; the points of student and
    teacher are compared as two samples of one distribution: mean k(t, t') + mean k(s, s') -
    2 mean k(s, t), the mean over samples. The numbers of channels may differ; maps of different
    sizes are average-pooled to the smaller one first.

    Args:
        student_feature: ``[batch, channels, height, width]``.
        teacher_feature: the same samples, any channels and size; receives no gradient.
        kernel: ``poly``: (x·y) to the power ``degree``; ``linear``: x·y; ``gaussian``:
            exp(-‖x - y‖² / (2 σ²)).
        degree: of the polynomial, a whole number of at least 1.
        bandwidth: σ² of the Gaussian; None: the mean of ‖s - t‖² over a sample's pairs of channels.

    Returns:
        A scalar, not negative up to rounding; 0 for an empty batch. Scaling a channel's map by a
        positive number, and the order of channels, change nothing.

    Raises:
        ValueError: these are no maps of the same samples, or a value without a meaning.
    """
    check_choice("kernel", kernel, SelectivityKernel)
    check_positive("degree", degree)
    if bandwidth is not None:
        check_positive("bandwidth", bandwidth)
    ours, theirs = pooled_pair(student_feature, teacher_feature)
    wide = working_dtype(ours, theirs)  # three large numbers leave a small one
    s, t = (nn.functional.normalize(x.to(wide).flatten(2), dim=2) for x in (ours, theirs))
    compare = _gaussian(s, t, bandwidth) if kernel == "gaussian" else _power(kernel, degree)
    values = compare(t, t) + compare(s, s) - 2 * compare(s, t)
    return mean_of(values).to(ours.dtype)


def _power(kernel: str, degree: int) -> Callable[[Tensor, Tensor], Tensor]:
    exponent = 1 if kernel == "linear" else degree

    def compare(first: Tensor, second: Tensor) -> Tensor:
        return (first @ second.mT).pow(exponent).mean(dim=(1, 2))

    return compare


def _gaussian(
    student: Tensor, teacher: Tensor, bandwidth: float | None
) -> Callable[[Tensor, Tensor], Tensor]:
    def squares(first: Tensor, second: Tensor) -> Tensor:
        # Not by a matrix product: equal rows must be at distance 0, with gradient 0.
        return distances(first, second).square()

    if bandwidth is None:
        sigma = squares(student, teacher).mean(dim=(1, 2), keepdim=True)
        sigma = torch.where(sigma == 0, 1.0, sigma)
    else:
        sigma = torch.full((), bandwidth, dtype=student.dtype, device=student.device)

    def compare(first: Tensor, second: Tensor) -> Tensor:
        return (-squares(first, second) / (2 * sigma)).exp().mean(dim=(1, 2))

    return compare
