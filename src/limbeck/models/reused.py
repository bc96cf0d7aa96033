"""SimKD's projector: from the student's last maps to the teacher's, whose classifier follows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Reprojection(nn.Module):
    """A bottleneck of three convolutions, 1x1, 3x3 and 1x1, each with batch norm and ReLU.

    Args:
        channels: of the student's features.
        out_channels: of the teacher's.
        factor: the middle has ``out_channels // factor`` channels, 1 at least.
        size: to which larger maps are average-pooled first; None: as they are.

    Maps ``[batch, channels, height, width]``; vectors ``[batch, channels]`` are maps of one pixel.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        factor: int = 2,
        size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        middle = max(out_channels // factor, 1)
        self.pool = nn.Identity() if size is None else nn.AdaptiveAvgPool2d(tuple(size))
        self.transfer = nn.Sequential(
            *_step(channels, middle, 1), *_step(middle, middle, 3), *_step(middle, out_channels, 1)
        )

    def forward(self, feature: Tensor) -> Tensor:
        """Return features of the teacher's width, in the form of those given."""
        if feature.ndim == 2:
            feature = feature[..., None, None]
            return self.transfer(feature).flatten(1)  # type: ignore[no-any-return]
        return self.transfer(self.pool(feature))  # type: ignore[no-any-return]


def _step(channels: int, out_channels: int, kernel: int) -> tuple[nn.Module, ...]:
    layer = nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2, bias=False)
    return layer, nn.BatchNorm2d(out_channels), nn.ReLU()
