"""Which channels of a map respond together, and how far student and teacher differ in that."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from limbeck.functional._common import result_dtype


def channel_correlation(
    student_feature: Float[Tensor, "batch channels _ _"],
    teacher_feature: Float[Tensor, "batch channels _ _"],
) -> Float[Tensor, ""]:
    """Inter-channel correlation (Liu et al. 2202.03680): ``‖G_T - G_S‖²_F / channels``.

    ``G = F Fᵀ`` of a sample's map flattened to ``[channels, positions]``, its rows scaled to length
    1: the form of the authors' code. Mean over samples. Positions are summed over, so that
    the maps may differ in size, and scaling a sample's whole map changes nothing.

    Args:
        student_feature: ``[batch, channels, height, width]``.
        teacher_feature: the same samples and channels, of any height and width; fixed, receives
            no gradient.

    Returns:
        A scalar; 0 for an empty batch.

    Raises:
        ValueError: these are no maps of the same samples and channels.

    >>> maps = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    >>> channel_correlation(maps, -2 * maps)
    tensor(0.)
    """
    shapes = student_feature.shape, teacher_feature.shape
    if any(len(shape) != 4 for shape in shapes) or shapes[0][:2] != shapes[1][:2]:
        raise ValueError(
            f"features have shapes {tuple(shapes[0])} (student) and {tuple(shapes[1])} (teacher); "
            "expected maps [batch, channels, height, width] of the same samples and channels"
        )
    gap = _rows(student_feature) - _rows(teacher_feature.detach())
    return gap.square().sum() / max(gap.shape[0] * gap.shape[1], 1)


def _rows(feature: Tensor) -> Tensor:
    """Return ``[batch, channels, channels]``, rows of length 1."""
    flat = feature.to(result_dtype(feature)).flatten(2)
    with torch.autocast(feature.device.type, enabled=False):
        return normalize(flat @ flat.mT, dim=2)
