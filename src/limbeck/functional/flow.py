"""Flow of the solution procedure: how one layer's channels go with the next layer's."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional._common import result_dtype
from limbeck.functional._maps import check_maps, match_sizes
from limbeck.functional.feature import hint


def flow_matrix(
    lower: Float[Tensor, "batch lower _ _"], upper: Float[Tensor, "batch upper _ _"]
) -> Float[Tensor, "batch upper lower"]:
    """Mean over the positions of the products of two layers' channels.

    Args:
        lower: ``[batch, channels, height, width]`` of one network.
        upper: a later layer of the same network; the larger map is average-pooled to the smaller.

    Raises:
        ValueError: these are no maps of the same samples.
    """
    check_maps(lower, upper)
    dtype = result_dtype(lower)
    first, second = match_sizes(lower.to(dtype), upper.to(dtype))
    positions = max(first.shape[2] * first.shape[3], 1)
    return second.flatten(2) @ first.flatten(2).mT / positions


def fsp(
    student_features: Sequence[Float[Tensor, "batch _ _ _"]],
    teacher_features: Sequence[Float[Tensor, "batch _ _ _"]],
) -> Float[Tensor, ""]:
    """Squared error of the flow matrices of consecutive layers (Yim et al., CVPR 2017).

    The mean over samples and entries of each matrix, summed over the matrices.

    Args:
        student_features: two or more layers in order, ``[batch, channels, height, width]`` each.
        teacher_features: the layers they learn from, as many, with the same numbers of channels;
            they receive no gradient.

    Returns:
        A scalar; 0 for an empty batch.

    Raises:
        ValueError: fewer than two layers, or not as many; channels differ.
    """
    if len(student_features) != len(teacher_features) or len(student_features) < 2:
        raise ValueError(
            f"there are {len(student_features)} layers of the student and {len(teacher_features)} "
            "of the teacher; expected as many of both, at least 2"
        )
    theirs = [feature.detach() for feature in teacher_features]
    sides = zip(pairwise(student_features), pairwise(theirs), strict=True)
    return torch.stack([hint(flow_matrix(*s), flow_matrix(*t)) for s, t in sides]).sum()
