"""Activation boundaries: which neurons of the teacher are active, not how strongly."""

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional._common import check_positive, check_same_shape, result_dtype


def activation_boundary(
    student_feature: Float[Tensor, " batch *feature"],
    teacher_feature: Float[Tensor, " batch *feature"],
    *,
    margin: float = 1.0,
) -> Float[Tensor, ""]:
    """Squared hinge on the teacher's activations (Heo et al. 1811.03233).

    Before a ReLU: (s + m)² where the teacher is inactive (t ≤ 0) and s > -m; (s - m)² where it is
    active and s ≤ m; else 0. Summed over all neurons, mean over samples.

    Args:
        student_feature: ``[batch, ...]`` before its ReLU, in the teacher's shape.
        teacher_feature: ``[batch, ...]``; only its signs count; receives no gradient.
        margin: m, above 0: how far from 0 the student should be.

    Returns:
        A scalar, 0 where every neuron is on its side by the margin; 0 for an empty batch.

    Raises:
        ValueError: shapes differ or margin is not positive.
    """
    check_same_shape(student_feature, teacher_feature, "features")
    check_positive("margin", margin)
    dtype = result_dtype(student_feature)
    side = torch.where(teacher_feature.detach() > 0, 1.0, -1.0).to(dtype)
    short = (margin - side * student_feature.to(dtype)).clamp(min=0)
    return short.square().sum() / max(len(short), 1)
