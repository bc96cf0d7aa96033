"""Layers of a teacher aggregated one into the next, so that none is skipped."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.functional._common import check_same_shape, result_dtype
from limbeck.functional.feature import squared_gap


def highway(
    before: Float[Tensor, " batch *feature"],
    layer: Float[Tensor, " batch *feature"],
    gate: Float[Tensor, " batch *feature"],
) -> Float[Tensor, " batch *feature"]:
    """What the layers so far and the next one are together: ``g · layer + (1 - g) · before``.

    The gate of Lin, Chen and Kao (Sensors 23(3):1483, 2023), before its norm.

    Args:
        before: the aggregate of the layers so far.
        layer: the next layer, of the same shape.
        gate: its logits, of the same shape; ``g`` is their sigmoid.

    Raises:
        ValueError: shapes differ.

    >>> highway(torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([[0.0, 100.0]]))
    tensor([[0.5000, 1.0000]])
    """
    check_same_shape(before, layer, "layers")
    check_same_shape(before, gate, "gate")
    return torch.lerp(before, layer, gate.sigmoid())


def aggregate_distance(
    student_feature: Float[Tensor, " batch *feature"],
    aggregate: Float[Tensor, " batch *feature"],
    *,
    mask: Bool[Tensor, "batch positions"] | None = None,
) -> Float[Tensor, ""]:
    """Mean squared error between a student's layer and an aggregate, which is trained too.

    Args:
        student_feature: ``[batch, ...]``.
        aggregate: the same shape; it **receives a gradient**, for the gates that made it. Detach
            the teacher's layers before they enter the gates.
        mask: which positions of ``[batch, positions, ...]`` count, as for ``hint``.

    Returns:
        A scalar; 0 for an empty batch.

    Raises:
        ValueError: shapes differ or do not fit the mask.
    """
    check_same_shape(student_feature, aggregate, "features")
    dtype = result_dtype(student_feature)
    return squared_gap(student_feature.to(dtype) - aggregate.to(dtype), mask, "elementwise")
