"""ShuffleNet (V1) for small images.

Zhang et al., "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices"
(2018, arXiv 1707.01083), in the form of the CIFAR-100 distillation tables: a 1x1 stem that keeps
the resolution, and a ReLU after the depthwise convolution too.
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

STEM = 24
BLOCKS = (4, 8, 4)


class ChannelShuffle(nn.Module):
    """Deal the channels of ``groups`` equal groups out in turn."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the same shape, channels in the order 0, n, 2n, ..., 1, n+1, ... (n a group)."""
        batch, channels, height, width = inputs.shape
        grouped = inputs.reshape(batch, self.groups, channels // self.groups, height, width)
        return grouped.transpose(1, 2).flatten(1, 2)


class ShuffleUnit(nn.Module):
    """Grouped 1x1 convolution, shuffle, depthwise 3x3, grouped 1x1; added to the input.

    With stride 2 the input is average-pooled and put beside the result instead.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, groups: int) -> None:
        super().__init__()
        added = channels - in_channels if stride == 2 else channels
        hidden = added // 4
        first = 1 if in_channels == STEM else groups  # the stem's channels are too few to group
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, groups=first, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.relu1 = nn.ReLU()
        self.shuffle = ChannelShuffle(first)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(hidden, added, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(added)
        self.shortcut = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else None
        self.relu3 = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[batch, channels, height / stride, width / stride]``, after ReLU."""
        hidden = self.shuffle(self.relu1(self.bn1(self.conv1(inputs))))
        hidden = self.relu2(self.bn2(self.conv2(hidden)))
        hidden = self.bn3(self.conv3(hidden))
        if self.shortcut is None:
            hidden = hidden + inputs
        else:
            hidden = torch.cat([hidden, self.shortcut(inputs)], dim=1)
        out: Tensor = self.relu3(hidden)
        return out


@register_model("shufflenetv1")
class ShuffleNetV1(nn.Module):
    """Three stages of 4, 8 and 4 units, each stage halving the resolution.

    Args:
        num_classes: logits per sample.
        input_shape: ``(channels, height, width)``, usually ``(3, 32, 32)``.
        channels: channels of the three stages.
        groups: groups of the 1x1 convolutions.

    Inputs ``[batch, channels, height, width]``, output logits ``[batch, num_classes]``. The
    defaults are three groups at width 1.
    """

    paper: ClassVar[str] = "Zhang et al. 2018, arXiv 1707.01083"

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int],
        *,
        channels: Sequence[int] = (240, 480, 960),
        groups: int = 3,
    ) -> None:
        super().__init__()
        in_channels, _, _ = check_image("shufflenetv1", input_shape)
        widths = check_sizes("channels", channels)
        (groups,) = check_sizes("groups", [groups])
        _check_channels(widths, groups)
        self.conv1 = nn.Conv2d(in_channels, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu = nn.ReLU()
        self.layer1 = _stage(STEM, widths[0], BLOCKS[0], groups)
        self.layer2 = _stage(widths[0], widths[1], BLOCKS[1], groups)
        self.layer3 = _stage(widths[1], widths[2], BLOCKS[2], groups)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.linear = nn.Linear(widths[2], num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, num_classes]``."""
        hidden = self.relu(self.bn1(self.conv1(inputs)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        logits: Tensor = self.linear(self.pool(hidden))
        return logits

    def roles(self) -> dict[str, list[str] | str]:
        """Where the features are; ``preactivations`` are the stages before their last ReLU."""
        stages = ["layer1", "layer2", "layer3"]
        return {
            "stages": stages,
            "preactivations": [
                f"{stage}.{count - 1}.relu3:in" for stage, count in zip(stages, BLOCKS, strict=True)
            ],
            "penultimate": "pool",
            "head": "linear",
        }


def _stage(in_channels: int, channels: int, count: int, groups: int) -> nn.Sequential:
    rest = (ShuffleUnit(channels, channels, 1, groups) for _ in range(count - 1))
    return nn.Sequential(ShuffleUnit(in_channels, channels, 2, groups), *rest)


def _check_channels(channels: tuple[int, ...], groups: int) -> None:
    """Raise ModelError where the units cannot be cut into groups."""
    if len(channels) != 3:
        raise ModelError(f"channels must be 3 numbers, one a stage, got {channels!r}")
    before = (STEM, *channels)
    for inside, outside in zip(before, channels, strict=False):
        added = (outside - inside, outside)
        if min(added) <= 0 or any(n % groups or n // 4 % groups or n < 4 for n in added):
            raise ModelError(
                f"channels must grow from {STEM}, the channels that a stage adds and a fourth of "
                f"them divisible by groups {groups}, got {channels!r}"
            )
