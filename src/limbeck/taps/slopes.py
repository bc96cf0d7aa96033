"""Gradients of a network's own answer at its taps, one vector for each token or sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck import functional
from limbeck.data.tokens import token_mask
from limbeck.errors import TapError
from limbeck.taps.outputs import Outputs


def slopes_at(
    outputs: Outputs, taps: Sequence[str], *, graph: bool, of: Tensor | None = None
) -> list[Tensor]:
    """Return the gradients, at the taps, of each sample's top probability, by its log-odds.

    Args:
        outputs: logits with a graph back to the tapped features.
        taps: names of the features.
        graph: whether the gradients can be differentiated through.
        of: differentiate this instead, ``[batch]``.

    Returns:
        One tensor a tap, in its shape; zeros where the answer does not depend on it.

    Raises:
        TapError: a tap stands for several layers or none, or holds no numbers.
    """
    features = [feature_at(outputs, tap) for tap in taps]
    with torch.enable_grad():  # the graph is there, whoever asks
        scalar = functional.top_log_odds(outputs.logits) if of is None else of
        found = torch.autograd.grad(
            scalar.sum(),
            features,
            create_graph=graph,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
    return list(found)


def feature_at(outputs: Outputs, tap: str) -> Tensor:
    """Return the one feature that a tap names; TapError where it names several layers."""
    if tap not in outputs.features:
        found = ", ".join(outputs.features) or "nothing"
        raise TapError(f"tap {tap!r}: name one layer, such as 'stages[-1]'; there is {found}")
    return outputs.features[tap]


def as_rows(value: Tensor) -> Tensor:
    """Return ``[batch, rows, width]``: tokens ``[batch, tokens, width]`` as they are; of any other
    form, a sample's numbers as one row.
    """
    return value if value.dim() == 3 else value.flatten(1)[:, None]


def row_mask(inputs: Any, value: Tensor) -> Tensor | None:
    """Return which rows of ``as_rows(value)`` are no padding, or None: all."""
    return token_mask(inputs, value) if value.dim() == 3 else None
