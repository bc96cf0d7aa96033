"""Padded tokens: which are real, and batches no longer than their longest text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

MASK = "attention_mask"
MULTIPLE = 8  # lengths are rounded up to it: few different shapes, and friendly ones


def token_mask(inputs: Any, features: Tensor) -> Tensor | None:
    """Return which tokens of ``features`` are real, bool ``[batch, tokens]``.

    Args:
        inputs: of the batch.
        features: ``[batch, tokens, ...]``.

    Returns:
        None where the inputs have no mask of this shape: then every position counts.
    """
    mask = inputs.get(MASK) if isinstance(inputs, Mapping) else None
    if not isinstance(mask, Tensor) or features.dim() < 3 or mask.shape != features.shape[:2]:
        return None
    return mask.bool()


def trim(inputs: Any) -> Any:
    """Return tokens without the columns that are padding in every sample of the batch.

    Networks that mask padding say the same, to rounding. Inputs without a mask stay as they are,
    and so do texts that are padded on the left.
    """
    mask = inputs.get(MASK) if isinstance(inputs, Mapping) else None
    if not isinstance(mask, Tensor) or mask.dim() != 2 or not mask.numel():
        return inputs
    used = torch.nonzero(mask.any(dim=0))
    longest = int(used[-1]) + 1 if len(used) else 1
    length = min(-(-longest // MULTIPLE) * MULTIPLE, mask.shape[1])
    return {
        name: value[:, :length] if value.shape == mask.shape else value
        for name, value in inputs.items()
    }
