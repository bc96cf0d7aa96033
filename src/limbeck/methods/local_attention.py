"""Local attention between two maps of one size: what FAM-KD mixes layers with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LocalAttention(nn.Module):
    """Each position asks its 3x3 neighbourhood in another map, channel by channel.

    Stand-alone self-attention (Ramachandran et al., arXiv 1906.05909) with queries of one map, keys
    and values of the other. Keys of the first half of the channels know their row in the
    neighbourhood, those of the second half their column.

    Args:
        channels: of both maps and of the result.
        size: side of the neighbourhood, odd.
    """

    def __init__(self, channels: int, size: int = 3) -> None:
        super().__init__()
        self.size = size
        self.query, self.key, self.value = (
            nn.Conv2d(channels, channels, 1, bias=False) for _ in range(3)
        )
        half = channels // 2
        self.rows = nn.Parameter(torch.randn(half, size, 1))
        self.columns = nn.Parameter(torch.randn(channels - half, 1, size))
        for layer in (self.query, self.key, self.value):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, asked: Tensor, asking: Tensor) -> Tensor:
        """Return what ``asking`` finds in ``asked``, both ``[batch, channels, height, width]``."""
        square = (-1, self.size, self.size)
        place = torch.cat([self.rows.expand(square), self.columns.expand(square)])
        keys = self._around(self.key(asked)) + place.flatten(1)[:, :, None, None]
        weights = (self.query(asking)[:, :, None] * keys).softmax(dim=2)
        found: Tensor = (weights * self._around(self.value(asked))).sum(dim=2)
        return found

    def _around(self, maps: Tensor) -> Tensor:
        """Return each position's neighbours, zeros outside: ``[batch, channels, places, …]``."""
        batch, channels, height, width = maps.shape
        windows = nn.functional.unfold(maps, self.size, padding=self.size // 2)
        return windows.view(batch, channels, self.size**2, height, width)
