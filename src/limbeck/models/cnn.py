"""A small convolutional network for small images."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from limbeck.errors import ModelError, unknown
from limbeck.models.mlp import check_dropout, check_sizes
from limbeck.models.registry import register_model

NORMS = ("batch", "group", "none")


def make_norm(kind: str, channels: int) -> nn.Module:
    """Return the normalisation of a convolution's output; raises ModelError if unknown."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels)
    if kind == "none":
        return nn.Identity()
    raise ModelError(unknown("norm", kind, NORMS))


def check_image(name: str, input_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return ``(channels, height, width)``; raises ModelError for anything else."""
    if len(input_shape) != 3:
        raise ModelError(
            f"model {name!r} reads images (channels, height, width), not {tuple(input_shape)}"
        )
    channels, height, width = input_shape
    return channels, height, width


@register_model("cnn")
class CNN(nn.Module):
    """Stages of 3x3 convolution, norm and ReLU, halved by max pooling between them.

    Args:
        num_classes: logits per sample.
        input_shape: ``(channels, height, width)``; any size (a map of 1 pixel is not halved).
        channels: output channels of each stage.
        layers: convolutions in each stage.
        norm: "batch", "group", or "none" (the convolutions then have a bias). Without batch
            statistics the network computes each sample alone, so that any split of a batch over
            processes gives the same gradients.
        dropout: rate before the head.

    Inputs ``[batch, channels, height, width]``, output logits ``[batch, num_classes]``.
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int],
        *,
        channels: Sequence[int] = (32, 64, 128),
        layers: int = 1,
        norm: str = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        in_channels, height, width = check_image("cnn", input_shape)
        channels = check_sizes("channels", channels)
        (layers,) = check_sizes("layers", [layers])
        self.layers = layers
        self.stages = nn.Sequential()
        size = min(height, width)
        for position, out_channels in enumerate(channels):
            halve = position > 0 and size > 1
            self.stages.append(_stage(in_channels, out_channels, layers, norm, halve))
            size = math.ceil(size / 2) if halve else size
            in_channels = out_channels
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.dropout = nn.Dropout(check_dropout(dropout))
        self.head = nn.Linear(in_channels, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, num_classes]``."""
        logits: Tensor = self.head(self.dropout(self.pool(self.stages(inputs))))
        return logits

    def roles(self) -> dict[str, list[str] | str]:
        """Where the features are: stage outputs after ReLU, before the next stage's pooling.

        ``preactivations`` are the same before the ReLU.
        """
        stages = [f"stages.{position}" for position in range(len(self.stages))]
        return {
            "stages": stages,
            "preactivations": [f"{stage}.relu{self.layers}:in" for stage in stages],
            "penultimate": "pool",
            "head": "head",
        }


def _stage(
    in_channels: int, out_channels: int, layers: int, norm: str, halve: bool
) -> nn.Sequential:
    parts = OrderedDict[str, nn.Module]()
    if halve:
        parts["pool"] = nn.MaxPool2d(2, ceil_mode=True)
    for number in range(1, layers + 1):
        parts[f"conv{number}"] = nn.Conv2d(
            in_channels, out_channels, 3, padding=1, bias=norm == "none"
        )
        parts[f"norm{number}"] = make_norm(norm, out_channels)
        parts[f"relu{number}"] = nn.ReLU()
        in_channels = out_channels
    return nn.Sequential(parts)
