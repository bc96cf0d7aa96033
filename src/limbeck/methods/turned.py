"""Turned images behind the originals, and how alike a head finds them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import IGNORE, Batch
from limbeck.errors import MethodError

TURNS = 3  # by 90, 180 and 270 degrees


def with_turned(batch: Batch) -> Batch:
    """Append the turned images, without labels and as samples that are no longer the data's.

    Raises:
        MethodError: the inputs are no square images.
    """
    check_square(batch)
    views = [batch.inputs.rot90(turn, (2, 3)) for turn in range(TURNS + 1)]
    same = torch.zeros(len(batch), dtype=torch.bool, device=batch.inputs.device)
    before = same if batch.changed is None else batch.changed
    targets = batch.targets
    if targets is not None:
        targets = torch.cat([targets, torch.full_like(targets, IGNORE).repeat(TURNS)])
    return batch.replace(
        inputs=torch.cat(views),
        targets=targets,
        index=None if batch.index is None else batch.index.repeat(TURNS + 1),
        changed=torch.cat([before, (~same).repeat(TURNS)]),
    )


def make_head(shape: Sequence[int]) -> nn.Sequential:
    """Return two linear layers as wide as the features, with a ReLU between them."""
    width = math.prod(shape[1:])
    return nn.Sequential(nn.Flatten(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def similarities(head: nn.Module, feature: Tensor) -> Tensor:
    """Return how alike each turned image is to each original, ``[3 samples, samples]``."""
    said = head(feature)
    count = len(said) // (TURNS + 1)
    return functional.cosine_similarities(said[count:], said[:count])


def check_square(batch: Batch) -> None:
    """Refuse inputs that cannot be turned by 90 degrees.

    Raises:
        MethodError: no tensor of square images, or the teacher has inputs of its own.
    """
    inputs = batch.inputs
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or inputs.shape[2] != inputs.shape[3]:
        said = list(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise MethodError(
            "method sskd: turns its inputs by 90 degrees: expected square images [batch, channels, "
            f"side, side], got {said}"
        )
    if batch.teacher_inputs is not None:
        raise MethodError("method sskd: cannot turn a teacher's own inputs")


def owners(scores: Tensor) -> Tensor:
    """Return which original each row of similarities belongs to."""
    return torch.arange(scores.shape[1], device=scores.device).repeat(TURNS)
