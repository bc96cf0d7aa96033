"""VGG networks with batch norm for small images.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2015,
arXiv 1409.1556), in the form of the CIFAR-100 distillation tables: one linear classifier after
global average pooling, and no pooling before the last block of a small image.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.models.cnn import check_image
from limbeck.models.registry import register_model
from limbeck.models.start import start_convolutions, start_head

CHANNELS = (64, 128, 256, 512, 512)
LAYERS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""3x3 convolutions in each block, by the depth of the network."""

SMALLEST = 8
LARGE = 64  # from here on the last block reads a pooled map too, as at 32x32 it does not


@register_model("vgg")
class VGG(nn.Module):
    """Five blocks of 3x3 convolutions with batch norm and ReLU, max pooling between them.

    Args:
        num_classes: logits per sample.
        input_shape: ``(channels, height, width)``, at least 8x8 pixels. Images of 64x64 and more
            are halved before each of the last four blocks, smaller ones before the first three of
            those.
        depth: 8, 11, 13, 16 or 19.

    Inputs ``[batch, channels, height, width]``, output logits ``[batch, num_classes]``.
    """

    paper: ClassVar[str] = "Simonyan and Zisserman 2015, arXiv 1409.1556"

    def __init__(self, num_classes: int, input_shape: Sequence[int], *, depth: int = 8) -> None:
        super().__init__()
        in_channels, height, width = check_image("vgg", input_shape)
        if depth not in LAYERS:
            known = ", ".join(map(str, LAYERS))
            raise ModelError(f"depth of a vgg must be one of {known}, got {depth!r}")
        if min(height, width) < SMALLEST:
            raise ModelError(
                f"model 'vgg' halves its images three times: it needs at least 8x8 pixels, got "
                f"{height}x{width}"
            )
        self.layers = LAYERS[depth]
        self.blocks = nn.Sequential()
        for position, (channels, layers) in enumerate(zip(CHANNELS, self.layers, strict=True)):
            halve = 0 < position < 4 or (position == 4 and min(height, width) >= LARGE)
            self.blocks.append(_block(in_channels, channels, layers, halve))
            in_channels = channels
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.linear = nn.Linear(in_channels, num_classes)
        start_convolutions(self)
        start_head(self.linear)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, num_classes]``."""
        logits: Tensor = self.linear(self.pool(self.blocks(inputs)))
        return logits

    def roles(self) -> dict[str, list[str] | str]:
        """Where the features are: blocks after their last ReLU; ``preactivations`` before it."""
        stages = [f"blocks.{position}" for position in range(len(CHANNELS))]
        return {
            "stages": stages,
            "preactivations": [
                f"{stage}.relu{layers}:in"
                for stage, layers in zip(stages, self.layers, strict=True)
            ],
            "penultimate": "pool",
            "head": "linear",
        }


def _block(in_channels: int, channels: int, layers: int, halve: bool) -> nn.Sequential:
    parts = OrderedDict[str, nn.Module]()
    if halve:
        parts["pool"] = nn.MaxPool2d(2)
    for number in range(1, layers + 1):
        parts[f"conv{number}"] = nn.Conv2d(in_channels, channels, 3, padding=1)
        parts[f"bn{number}"] = nn.BatchNorm2d(channels)
        parts[f"relu{number}"] = nn.ReLU()
        in_channels = channels
    return nn.Sequential(parts)


for _depth in LAYERS:
    register_model(f"vgg{_depth}", depth=_depth)(VGG)
