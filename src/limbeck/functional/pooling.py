"""Average pooling to a given size, with the same bits each time where those are asked for."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def average_pool(
    feature: Float[Tensor, "batch channels _ _"], *, size: int | tuple[int, int]
) -> Float[Tensor, "batch channels height width"]:
    """Adaptive average pooling; a size that is larger than the map repeats its entries.

    torch's own backward pass adds up in any order on a GPU. Where deterministic algorithms are
    asked for, the same means are taken there as products with two small matrices.

    Args:
        feature: maps ``[batch, channels, h, w]``.
        size: height and width, or both in one number.

    Returns:
        ``[batch, channels, height, width]``.

    >>> average_pool(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]), size=1).item()
    4.0
    """
    if feature.device.type == "cuda" and torch.are_deterministic_algorithms_enabled():
        return pooled_by_products(feature, size)
    return nn.functional.adaptive_avg_pool2d(feature, size)


def pooled_by_products(feature: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Return the same as two products, ``rows · feature · columnsᵀ``."""
    height, width = (size, size) if isinstance(size, int) else size
    rows = _means(feature.shape[2], height, feature)
    columns = _means(feature.shape[3], width, feature)
    with torch.autocast(feature.device.type, enabled=False):
        return rows @ feature @ columns.T


def _means(length: int, size: int, like: Tensor) -> Tensor:
    """Return the matrix ``[size, length]`` whose rows take the means of adaptive pooling."""
    matrix = torch.zeros(size, length, dtype=like.dtype)
    for place in range(size):
        first, last = place * length // size, -(-(place + 1) * length // size)
        matrix[place, first:last] = 1 / (last - first)
    return matrix.to(like.device, non_blocking=True)
