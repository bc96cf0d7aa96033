"""ShuffleNetV2 for small images.

Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design" (2018, arXiv
1807.11164), in the form of the CIFAR-100 distillation tables: a 1x1 stem that keeps the resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.models.cnn import check_image
from limbeck.models.mlp import check_sizes
from limbeck.models.registry import register_model
from limbeck.models.shufflenetv1 import BLOCKS, STEM, ChannelShuffle


class Branch(nn.Module):
    """1x1 convolution, depthwise 3x3, 1x1; ReLU after the first and the last."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.relu3 = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[batch, channels, height / stride, width / stride]``, after ReLU."""
        hidden = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(inputs)))))
        out: Tensor = self.relu3(self.bn3(self.conv3(hidden)))
        return out


class SplitUnit(nn.Module):
    """One half of the channels passes as it is, the other through a branch; then both shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = Branch(channels // 2, channels // 2, 1)
        self.shuffle = ChannelShuffle(2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the shape of the inputs."""
        passed, worked = inputs.chunk(2, dim=1)
        out: Tensor = self.shuffle(torch.cat([passed, self.branch(worked)], dim=1))
        return out


class DownUnit(nn.Module):
    """Two branches of stride 2 over all channels; their outputs shuffle."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, 2, 1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, channels // 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels // 2)
        self.relu2 = nn.ReLU()
        self.branch = Branch(in_channels, channels // 2, 2)
        self.shuffle = ChannelShuffle(2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[batch, channels, height / 2, width / 2]``."""
        short = self.relu2(self.bn2(self.conv2(self.bn1(self.conv1(inputs)))))
        out: Tensor = self.shuffle(torch.cat([short, self.branch(inputs)], dim=1))
        return out


@register_model("shufflenetv2")
class ShuffleNetV2(nn.Module):
    """Three stages of 4, 8 and 4 units, each stage halving the resolution.

    Args:
        num_classes: logits per sample.
        input_shape: ``(channels, height, width)``, usually ``(3, 32, 32)``.
        channels: even channels of the three stages, and those of the last 1x1 convolution.

    Inputs ``[batch, channels, height, width]``, output logits ``[batch, num_classes]``. The
    defaults are width 1.
    """

    paper: ClassVar[str] = "Ma et al. 2018, arXiv 1807.11164"

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int],
        *,
        channels: Sequence[int] = (116, 232, 464, 1024),
    ) -> None:
        super().__init__()
        in_channels, _, _ = check_image("shufflenetv2", input_shape)
        widths = check_sizes("channels", channels)
        if len(widths) != 4 or any(width % 2 for width in widths[:3]):
            raise ModelError(
                f"channels must be 4 numbers, three even ones of the stages and the last layer's, "
                f"got {channels!r}"
            )
        self.conv1 = nn.Conv2d(in_channels, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu1 = nn.ReLU()
        self.layer1 = _stage(STEM, widths[0], BLOCKS[0])
        self.layer2 = _stage(widths[0], widths[1], BLOCKS[1])
        self.layer3 = _stage(widths[1], widths[2], BLOCKS[2])
        self.conv2 = nn.Conv2d(widths[2], widths[3], 1, bias=False)
        self.bn2 = nn.BatchNorm2d(widths[3])
        self.relu2 = nn.ReLU()
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.linear = nn.Linear(widths[3], num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, num_classes]``."""
        hidden = self.relu1(self.bn1(self.conv1(inputs)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        hidden = self.relu2(self.bn2(self.conv2(hidden)))
        logits: Tensor = self.linear(self.pool(hidden))
        return logits

    def roles(self) -> dict[str, list[str] | str]:
        """Where the features are.

        There are no ``preactivations``: half of a stage's channels passed its last unit untouched.
        """
        return {
            "stages": ["layer1", "layer2", "layer3"],
            "penultimate": "pool",
            "head": "linear",
        }


def _stage(in_channels: int, channels: int, count: int) -> nn.Sequential:
    rest = (SplitUnit(channels) for _ in range(count - 1))
    return nn.Sequential(DownUnit(in_channels, channels), *rest)
