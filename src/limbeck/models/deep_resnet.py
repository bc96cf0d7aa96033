"""Residual networks of four stages, with a stem for small images.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (2016, arXiv 1512.03385),
with the stem of the CIFAR-100 distillation tables: one 3x3 convolution that keeps the
resolution. The networks for large images, with a 7x7 stem and pooling, are in timm
(``timm/resnet50``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.models.cnn import check_image
from limbeck.models.mlp import check_sizes
from limbeck.models.registry import register_model
from limbeck.models.resnet import ResidualBlock
from limbeck.models.start import start_convolutions

WIDTHS = (64, 128, 256, 512)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, four times as wide at the end, and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(channels, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != wide:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide)
            )
        self.relu3 = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[batch, 4 * channels, height / stride, width / stride]``, after ReLU."""
        hidden = self.relu1(self.bn1(self.conv1(inputs)))
        hidden = self.relu2(self.bn2(self.conv2(hidden)))
        hidden = self.bn3(self.conv3(hidden))
        out: Tensor = self.relu3(hidden + self.shortcut(inputs))
        return out


class DeepResNet(nn.Module):
    """Residual network with four stages of 64, 128, 256 and 512 channels.

    Not to be mixed up with ``resnet`` of depth 6n+2 (``resnet20``, ``resnet56``), which has three
    narrow stages.

    Args:
        num_classes: logits per sample.
        input_shape: ``(channels, height, width)``, usually ``(3, 32, 32)``.
        blocks: blocks of each stage.
        bottleneck: blocks of three convolutions, of which the last has four times the channels,
            instead of two.

    Inputs ``[batch, channels, height, width]``, output logits ``[batch, num_classes]``.
    """

    paper: ClassVar[str] = "He et al. 2016, arXiv 1512.03385"

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int],
        *,
        blocks: Sequence[int] = (3, 4, 6, 3),
        bottleneck: bool = True,
    ) -> None:
        super().__init__()
        in_channels, _, _ = check_image("resnet50", input_shape)
        counts = check_sizes("blocks", blocks)
        if len(counts) != 4:
            raise ModelError(f"blocks must be 4 numbers, one a stage, got {blocks!r}")
        self.conv1 = nn.Conv2d(in_channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU()
        growth = 4 if bottleneck else 1
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], counts[0], 1, bottleneck)
        self.layer2 = _stage(growth * WIDTHS[0], WIDTHS[1], counts[1], 2, bottleneck)
        self.layer3 = _stage(growth * WIDTHS[1], WIDTHS[2], counts[2], 2, bottleneck)
        self.layer4 = _stage(growth * WIDTHS[2], WIDTHS[3], counts[3], 2, bottleneck)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.linear = nn.Linear(growth * WIDTHS[3], num_classes)
        self._last = [f"{count - 1}.relu{3 if bottleneck else 2}:in" for count in counts]
        start_convolutions(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, num_classes]``."""
        hidden = self.relu(self.bn1(self.conv1(inputs)))
        hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
        logits: Tensor = self.linear(self.pool(hidden))
        return logits

    def roles(self) -> dict[str, list[str] | str]:
        """Where the features are; ``preactivations`` are the stages before their last ReLU."""
        stages = ["layer1", "layer2", "layer3", "layer4"]
        return {
            "stages": stages,
            "preactivations": [f"{s}.{last}" for s, last in zip(stages, self._last, strict=True)],
            "penultimate": "pool",
            "head": "linear",
        }


def _stage(
    in_channels: int, channels: int, count: int, stride: int, bottleneck: bool
) -> nn.Sequential:
    if bottleneck:
        deep = (BottleneckBlock(4 * channels, channels, 1) for _ in range(count - 1))
        return nn.Sequential(BottleneckBlock(in_channels, channels, stride), *deep)
    plain = (ResidualBlock(channels, channels, 1, "conv") for _ in range(count - 1))
    return nn.Sequential(ResidualBlock(in_channels, channels, stride, "conv"), *plain)


for _depth, _blocks, _bottleneck in (
    (18, (2, 2, 2, 2), False),
    (34, (3, 4, 6, 3), False),
    (50, (3, 4, 6, 3), True),
    (101, (3, 4, 23, 3), True),
    (152, (3, 8, 36, 3), True),
):
    register_model(f"resnet{_depth}", blocks=_blocks, bottleneck=_bottleneck)(DeepResNet)
