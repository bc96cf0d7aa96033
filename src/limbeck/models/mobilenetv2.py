"""MobileNetV2 for small images.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018, arXiv 1801.04381),
in the form of the CIFAR-100 distillation tables: the second stage of blocks keeps its
resolution, so that a 32x32 image ends in 2x2.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.models.cnn import check_image
from limbeck.models.mlp import check_sizes
from limbeck.models.registry import register_model
from limbeck.models.start import start_convolutions, start_head

STAGES = (
    (16, 1, 1),
    (24, 2, 1),
    (32, 3, 2),
    (64, 4, 2),
    (96, 3, 1),
    (160, 3, 2),
    (320, 1, 1),
)
"""Channels at width 1, blocks, and stride of the first block."""

TAPPED = (1, 2, 4, 6)  # the last blocks of each resolution
LAST = 1280


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, filter each channel 3x3, project by a linear 1x1 convolution.

    Input and output add up where they have the same shape.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(hidden, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.adds = stride == 1 and in_channels == channels

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[batch, channels, height / stride, width / stride]``, no activation applied."""
        hidden = self.relu1(self.bn1(self.conv1(inputs)))
        hidden = self.relu2(self.bn2(self.conv2(hidden)))
        out: Tensor = self.bn3(self.conv3(hidden))
        return inputs + out if self.adds else out


@register_model("mobilenetv2")
class MobileNetV2(nn.Module):
    """Inverted residuals with linear bottlenecks.

    ``mobilenetv2_half`` (``width=0.5``) is the network that the tables call MobileNetV2.

    Args:
        num_classes: logits per sample.
        input_shape: ``(channels, height, width)``, usually ``(3, 32, 32)``.
        width: factor on the channels of every layer, rounded down; the last layer, of 1280, does
            not become narrower.
        expansion: hidden channels of a block over its input channels; 1 in the first block.

    Inputs ``[batch, channels, height, width]``, output logits ``[batch, num_classes]``.
    """

    paper: ClassVar[str] = "Sandler et al. 2018, arXiv 1801.04381"

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int],
        *,
        width: float = 1.0,
        expansion: int = 6,
    ) -> None:
        super().__init__()
        in_channels, _, _ = check_image("mobilenetv2", input_shape)
        if not 1 / 16 <= width <= 16:
            raise ModelError(f"width must lie in [1/16, 16], got {width!r}")
        (expansion,) = check_sizes("expansion", [expansion])
        channels = int(32 * width)
        self.stem = _convolution(in_channels, channels, 3, 2)
        self.blocks = nn.Sequential()
        for position, (wide, count, stride) in enumerate(STAGES):
            inside, channels = channels, int(wide * width)
            factor = expansion if position else 1
            first = InvertedResidual(inside, channels, stride, factor)
            rest = (InvertedResidual(channels, channels, 1, factor) for _ in range(count - 1))
            self.blocks.append(nn.Sequential(first, *rest))
        last = int(LAST * max(width, 1.0))
        self.last = _convolution(channels, last, 1, 1)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.linear = nn.Linear(last, num_classes)
        start_convolutions(self)
        start_head(self.linear)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, num_classes]``."""
        logits: Tensor = self.linear(self.pool(self.last(self.blocks(self.stem(inputs)))))
        return logits

    def roles(self) -> dict[str, list[str] | str]:
        """Where the features are: the last blocks of each resolution.

        They are linear bottlenecks: no activation follows, so each is its own ``preactivation``.
        """
        stages = [f"blocks.{position}" for position in TAPPED]
        return {
            "stages": stages,
            "preactivations": list(stages),
            "penultimate": "pool",
            "head": "linear",
        }


def _convolution(in_channels: int, channels: int, size: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv=nn.Conv2d(in_channels, channels, size, stride, padding=size // 2, bias=False),
            bn=nn.BatchNorm2d(channels),
            relu=nn.ReLU(),
        )
    )


register_model("mobilenetv2_half", width=0.5)(MobileNetV2)
