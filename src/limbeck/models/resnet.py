"""Residual networks for small images, of depth 6n+2.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (2016, arXiv 1512.03385),
section 4.2. The four times wider forms (resnet8x4, resnet32x4) are those of the CIFAR-100
distillation literature: stem 32, stages 64/128/256, projection shortcuts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import ModelError, unknown
from limbeck.models.cnn import check_image
from limbeck.models.mlp import check_sizes
from limbeck.models.registry import register_model

DEPTHS = (8, 14, 20, 26, 32, 38, 44, 56, 110)
SHORTCUTS = ("pad", "conv")


class PadShortcut(nn.Module):
    """Option A of the paper: every second pixel, channels padded with zeros on both sides."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        extra = out_channels - in_channels
        self.before, self.after = extra // 2, extra - extra // 2

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[batch, out_channels, height / stride, width / stride]``."""
        kept = inputs[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, self.before, self.after))

    def narrowed(self, fewer: Callable[[int], int]) -> PadShortcut:
        """Return the shortcut between fewer channels (see ``limbeck.models.narrow``)."""
        return PadShortcut(fewer(self.in_channels), fewer(self.out_channels), self.stride)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    The activations are modules, so that ``relu2:in`` taps the features before the ReLU.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = _make_shortcut(shortcut, in_channels, channels, stride)
        self.relu2 = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[batch, channels, height / stride, width / stride]``, after ReLU."""
        hidden = self.relu1(self.bn1(self.conv1(inputs)))
        hidden = self.bn2(self.conv2(hidden))
        out: Tensor = self.relu2(hidden + self.shortcut(inputs))
        return out


def _make_shortcut(kind: str, in_channels: int, channels: int, stride: int) -> nn.Module:
    if kind == "pad":
        return PadShortcut(in_channels, channels, stride)
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
    )


@register_model("resnet")
class CifarResNet(nn.Module):
    """Residual network with three stages of ``(depth - 2) / 6`` blocks each.

    Args:
        num_classes: logits per sample.
        input_shape: ``(channels, height, width)``, usually ``(3, 32, 32)``.
        depth: 6n+2 with n at least 1.
        widths: channels of the stem and of the three stages.
        shortcut: "pad" (option A, no parameters) or "conv" (option B, 1x1 convolution and batch
            norm). Plain networks of the distillation literature's CIFAR-100 tables use "conv",
            the paper's CIFAR-10 ones and the published CIFAR-10 weights "pad".

    Inputs ``[batch, channels, height, width]``, output logits ``[batch, num_classes]``.
    Convolutions start from He's normal initialisation (fan out for "conv", fan in for "pad", as
    in the two lines of published networks).
    """

    paper: ClassVar[str] = "He et al. 2016, arXiv 1512.03385"

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int],
        *,
        depth: int = 20,
        widths: Sequence[int] = (16, 16, 32, 64),
        shortcut: str = "pad",
    ) -> None:
        super().__init__()
        in_channels, _, _ = check_image("resnet", input_shape)
        if not isinstance(depth, int) or depth < 8 or (depth - 2) % 6:
            raise ModelError(f"depth must be 6n+2 (8, 14, 20, ...), got {depth!r}")
        widths = check_sizes("widths", widths)
        if len(widths) != 4:
            raise ModelError(f"widths must be 4 numbers, stem and three stages, got {widths!r}")
        if shortcut not in SHORTCUTS:
            raise ModelError(unknown("shortcut", shortcut, SHORTCUTS))
        if shortcut == "pad" and list(widths) != sorted(widths):
            raise ModelError(f"shortcut 'pad' needs widths that do not shrink, got {widths!r}")
        stem, *stages = widths
        self.conv1 = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        blocks = (depth - 2) // 6
        self.layer1 = residual_stage(stem, stages[0], blocks, 1, shortcut)
        self.layer2 = residual_stage(stages[0], stages[1], blocks, 2, shortcut)
        self.layer3 = residual_stage(stages[1], stages[2], blocks, 2, shortcut)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.linear = nn.Linear(stages[2], num_classes)
        self._initialise("fan_in" if shortcut == "pad" else "fan_out")

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, num_classes]``."""
        hidden = self.relu(self.bn1(self.conv1(inputs)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        logits: Tensor = self.linear(self.pool(hidden))
        return logits

    def roles(self) -> dict[str, list[str] | str]:
        """Where the features are; ``preactivations`` are the stages before their last ReLU."""
        stages = {"layer1": self.layer1, "layer2": self.layer2, "layer3": self.layer3}
        return {
            "stages": list(stages),
            "preactivations": [f"{n}.{len(stage) - 1}.relu2:in" for n, stage in stages.items()],
            "penultimate": "pool",
            "head": "linear",
        }

    @torch.no_grad()
    def _initialise(self, mode: str) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")  # type: ignore[arg-type]
            elif isinstance(module, nn.Linear) and mode == "fan_in":
                nn.init.kaiming_normal_(module.weight)


def residual_stage(
    in_channels: int, channels: int, blocks: int, stride: int, shortcut: str
) -> nn.Sequential:
    """Return a stage of so many blocks, of which the first changes channels and resolution."""
    first = ResidualBlock(in_channels, channels, stride, shortcut)
    rest = [ResidualBlock(channels, channels, 1, shortcut) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


for _depth in DEPTHS:
    register_model(f"resnet{_depth}", depth=_depth)(CifarResNet)
    if _depth <= 32:
        register_model(
            f"resnet{_depth}x4", depth=_depth, widths=(32, 64, 128, 256), shortcut="conv"
        )(CifarResNet)
