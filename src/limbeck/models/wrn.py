"""Wide residual networks for small images, of depth 6n+4.

Zagoruyko and Komodakis, "Wide Residual Networks" (2016, arXiv 1605.07146): pre-activation blocks,
1x1 convolutions without norm where the shape changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.models.cnn import check_image
from limbeck.models.mlp import check_dropout, check_sizes
from limbeck.models.registry import register_model
from limbeck.models.start import start_convolutions

NAMED = ((16, 1), (16, 2), (16, 4), (28, 2), (28, 4), (28, 10), (40, 1), (40, 2), (40, 4))


class WideBlock(nn.Module):
    """Norm, ReLU and 3x3 convolution, twice, and a shortcut.

    Where the shape changes, the shortcut starts after the first ReLU; elsewhere at the input.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[batch, channels, height / stride, width / stride]``, before norm and ReLU."""
        active = self.relu1(self.bn1(inputs))
        hidden = self.dropout(self.relu2(self.bn2(self.conv1(active))))
        carried = inputs if self.shortcut is None else self.shortcut(active)
        out: Tensor = carried + self.conv2(hidden)
        return out


@register_model("wrn")
class WideResNet(nn.Module):
    """Residual network with three stages of ``(depth - 4) / 6`` pre-activation blocks each.

    Args:
        num_classes: logits per sample.
        input_shape: ``(channels, height, width)``, usually ``(3, 32, 32)``.
        depth: 6n+4 with n at least 1.
        widen: the stages have 16, 32 and 64 times this many channels; the stem has 16.
        dropout: rate between the two convolutions of a block.

    Inputs ``[batch, channels, height, width]``, output logits ``[batch, num_classes]``.
    """

    paper: ClassVar[str] = "Zagoruyko and Komodakis 2016, arXiv 1605.07146"

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int],
        *,
        depth: int = 16,
        widen: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        in_channels, _, _ = check_image("wrn", input_shape)
        if not isinstance(depth, int) or depth < 10 or (depth - 4) % 6:
            raise ModelError(f"depth must be 6n+4 (10, 16, 22, 28, 40, ...), got {depth!r}")
        (widen,) = check_sizes("widen", [widen])
        rate = check_dropout(dropout)
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(16, 16 * widen, blocks, 1, rate)
        self.layer2 = _stage(16 * widen, 32 * widen, blocks, 2, rate)
        self.layer3 = _stage(32 * widen, 64 * widen, blocks, 2, rate)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.relu = nn.ReLU()
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.linear = nn.Linear(64 * widen, num_classes)
        start_convolutions(self)
        nn.init.zeros_(self.linear.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, num_classes]``."""
        hidden = self.layer3(self.layer2(self.layer1(self.conv1(inputs))))
        logits: Tensor = self.linear(self.pool(self.relu(self.bn1(hidden))))
        return logits

    def roles(self) -> dict[str, list[str] | str]:
        """Where the features are.

        ``stages`` are sums of blocks, to which no norm or ReLU was applied yet; ``preactivations``
        are the same after the norm that follows them, before its ReLU.
        """
        return {
            "stages": ["layer1", "layer2", "layer3"],
            "preactivations": ["layer2.0.relu1:in", "layer3.0.relu1:in", "relu:in"],
            "penultimate": "pool",
            "head": "linear",
        }


def _stage(
    in_channels: int, channels: int, blocks: int, stride: int, dropout: float
) -> nn.Sequential:
    first = WideBlock(in_channels, channels, stride, dropout)
    rest = [WideBlock(channels, channels, 1, dropout) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


for _depth, _widen in NAMED:
    register_model(f"wrn{_depth}_{_widen}", depth=_depth, widen=_widen)(WideResNet)
