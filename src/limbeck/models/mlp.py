"""Multi-layer perceptron for tables, embeddings and small images."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from limbeck.errors import ModelError, unknown
from limbeck.models.registry import register_model

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def make_activation(name: str) -> nn.Module:
    """Return a fresh activation module (never in place); raises ModelError if unknown."""
    if name not in ACTIVATIONS:
        raise ModelError(unknown("activation", name, ACTIVATIONS))
    return ACTIVATIONS[name]()


def check_dropout(dropout: float) -> float:
    """Return a dropout rate in [0, 1); raises ModelError otherwise."""
    if not 0 <= dropout < 1:
        raise ModelError(f"dropout must lie in [0, 1), got {dropout!r}")
    return float(dropout)


def check_sizes(name: str, sizes: Sequence[int], *, empty: bool = False) -> tuple[int, ...]:
    """Return a tuple of positive ints; raises ModelError otherwise."""
    bad = not isinstance(sizes, list | tuple) or any(
        not isinstance(size, int) or isinstance(size, bool) or size < 1 for size in sizes
    )
    if bad or (not sizes and not empty):
        raise ModelError(f"{name} must be a list of positive integers, got {sizes!r}")
    return tuple(sizes)


@register_model("mlp")
class MLP(nn.Module):
    """Linear layers with an activation after each but the last; any input shape is flattened.

    Args:
        num_classes: logits per sample.
        input_shape: shape of one sample.
        widths: units of each hidden layer; an empty list gives a linear classifier.
        dropout: rate before every layer but the first, so that tapped activations are clean.
        activation: "relu", "gelu", "silu", "tanh" or "sigmoid".

    Inputs ``[batch, *input_shape]``, output logits ``[batch, num_classes]``.
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int],
        *,
        widths: Sequence[int] = (256, 256),
        dropout: float = 0.0,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        widths = check_sizes("widths", widths, empty=True)
        rate = check_dropout(dropout)
        self.flatten = nn.Flatten()
        self.hidden = nn.Sequential()
        size = math.prod(input_shape)
        for position, width in enumerate(widths):
            layer = OrderedDict[str, nn.Module]()
            if rate and position:
                layer["dropout"] = nn.Dropout(rate)
            layer["linear"] = nn.Linear(size, width)
            layer["activation"] = make_activation(activation)
            self.hidden.append(nn.Sequential(layer))
            size = width
        self.dropout = nn.Dropout(rate if widths else 0.0)
        self.head = nn.Linear(size, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, num_classes]``."""
        logits: Tensor = self.head(self.dropout(self.hidden(self.flatten(inputs))))
        return logits

    def roles(self) -> dict[str, list[str] | str]:
        """Where the features are: one stage per hidden layer, after its activation."""
        stages = [f"hidden.{position}" for position in range(len(self.hidden))]
        return {
            "stages": stages,
            "penultimate": stages[-1] if stages else "flatten",
            "head": "head",
        }
