"""Small B-cos networks: for each input one linear map of its pixels, which is its explanation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.models.bcos_layers import BcosConv2d, BcosLinear, Encode, UncentredBatchNorm2d
from limbeck.models.cnn import check_image
from limbeck.models.mlp import check_sizes
from limbeck.models.registry import register_model


class _BcosNetwork(nn.Module):
    """Encoding, stages, pooling, head. Subclasses fill ``stages`` and call ``finish``."""

    paper: ClassVar[str] = "Böhle et al. 2022, arXiv 2205.10268"

    def __init__(
        self,
        name: str,
        input_shape: Sequence[int],
        mean: float | Sequence[float],
        std: float | Sequence[float],
    ) -> None:
        super().__init__()
        channels, _, _ = check_image(name, input_shape)
        means, stds = _statistics("mean", mean, channels), _statistics("std", std, channels)
        self.encode = Encode(means, stds)
        self.stages = nn.Sequential()
        self.in_channels = 2 * channels

    def finish(self, channels: int, num_classes: int, b: float) -> None:
        """Add what stands behind the stages."""
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = BcosLinear(channels, num_classes, b=b)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, num_classes]``."""
        logits: Tensor = self.head(self.pool(self.stages(self.encode(inputs))))
        return logits

    def roles(self) -> dict[str, list[str] | str]:
        """Where the features are. There are no activations, so no ``preactivations``."""
        stages = [f"stages.{position}" for position in range(len(self.stages))]
        return {"stages": stages, "penultimate": "pool", "head": "head"}


@register_model("bcos_cnn")
class BcosCNN(_BcosNetwork):
    """Stages of 3x3 B-cos convolution and uncentred batch norm; all but the first halve the map.

    There is nothing else: no bias, no ReLU, no centring. So each logit is ``sum(W(x) * e)`` of the
    encoded pixels e = [p, 1 - p], and W(x) explains it in full.

    Args:
        num_classes: logits per sample.
        input_shape: ``(channels, height, width)``.
        channels: output channels of each stage.
        b: the exponent B of all layers, at least 1.
        mean: statistics of the data that inputs were normalised by, undone before encoding: one
            number or one a channel; 0 and ``std`` 1 where inputs lie in [0, 1].
        std: likewise, above 0.

    Inputs ``[batch, channels, height, width]``, output logits ``[batch, num_classes]``.
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int],
        *,
        channels: Sequence[int] = (32, 64, 128),
        b: float = 2.0,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__("bcos_cnn", input_shape, mean, std)
        width = self.in_channels
        for position, wider in enumerate(check_sizes("channels", channels)):
            parts = OrderedDict[str, nn.Module]()
            parts["conv"] = BcosConv2d(width, wider, 3, stride=2 if position else 1, padding=1, b=b)
            parts["norm"] = UncentredBatchNorm2d(wider)
            self.stages.append(nn.Sequential(parts))
            width = wider
        self.finish(width, num_classes, b)


class BcosBlock(nn.Module):
    """Two 3x3 B-cos convolutions and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int, b: float) -> None:
        super().__init__()
        self.conv1 = BcosConv2d(in_channels, channels, 3, stride=stride, padding=1, b=b)
        self.norm1 = UncentredBatchNorm2d(channels)
        self.conv2 = BcosConv2d(channels, channels, 3, padding=1, b=b)
        self.norm2 = UncentredBatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                BcosConv2d(in_channels, channels, 1, stride=stride, b=b),
                UncentredBatchNorm2d(channels),
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[batch, channels, height / stride, width / stride]``."""
        hidden = self.norm2(self.conv2(self.norm1(self.conv1(inputs))))
        out: Tensor = hidden + self.shortcut(inputs)
        return out


@register_model("bcos_resnet")
class BcosResNet(_BcosNetwork):
    """Residual network of B-cos layers for small images, of depth 6n+2.

    As :class:`BcosCNN`, each logit is ``sum(W(x) * e)`` of the encoded pixels.

    Args:
        num_classes: logits per sample.
        input_shape: ``(channels, height, width)``.
        depth: 6n+2 with n at least 1.
        widths: channels of the stem and of the three stages.
        b: the exponent B of all layers, at least 1.
        mean: statistics of the data that inputs were normalised by: see :class:`BcosCNN`.
        std: likewise, above 0.

    Inputs ``[batch, channels, height, width]``, output logits ``[batch, num_classes]``.
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int],
        *,
        depth: int = 20,
        widths: Sequence[int] = (16, 16, 32, 64),
        b: float = 2.0,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__("bcos_resnet", input_shape, mean, std)
        if not isinstance(depth, int) or depth < 8 or (depth - 2) % 6:
            raise ModelError(f"depth must be 6n+2 (8, 14, 20, ...), got {depth!r}")
        widths = check_sizes("widths", widths)
        if len(widths) != 4:
            raise ModelError(f"widths must be 4 numbers, stem and three stages, got {widths!r}")
        stem, *stages = widths
        width = stem
        for position, wider in enumerate(stages):
            blocks: list[nn.Module] = []
            if position == 0:
                blocks = [
                    BcosConv2d(self.in_channels, stem, 3, padding=1, b=b),
                    UncentredBatchNorm2d(stem),
                ]
            for number in range((depth - 2) // 6):
                stride = 2 if position and not number else 1
                blocks.append(BcosBlock(width, wider, stride, b))
                width = wider
            self.stages.append(nn.Sequential(*blocks))
        self.finish(width, num_classes, b)


def _statistics(key: str, value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    """Return one number a channel."""
    given = [value] * channels if isinstance(value, int | float) else list(value)
    numbers = tuple(float(one) for one in given)
    if len(numbers) not in (1, channels) or (key == "std" and not all(n > 0 for n in numbers)):
        above = " above 0" if key == "std" else ""
        raise ModelError(f"{key} must be one number{above}, or {channels}, got {value!r}")
    return numbers
