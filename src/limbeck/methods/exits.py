"""Exits: branches from layers of a student to logits of their own, for training only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limbeck.models.vit import TransformerBlock

GRID = 7
"""Tokens on a side to which a branch merges them, at the least."""
HEADS = 4
PREFIX = 2
"""Class and distillation tokens that may stand before the tokens of an image."""


def make_exit(shape: Sequence[int], below: int, width: int, vector: int, outputs: int) -> nn.Module:
    """Return the branch from a layer to logits, with its first weights drawn.

    Args:
        shape: of the layer: maps, tokens or vectors, with the batch in front.
        below: stages of the network behind it; that many halvings of a map, or blocks of tokens.
        width: channels at the end of a branch from maps.
        vector: entries of a token at the end of a branch in which tokens are merged.
        outputs: logits.
    """
    if len(shape) == 4:
        branch: nn.Module = map_exit(shape[1], below, width, outputs)
    elif len(shape) == 3:
        branch = TokenExit(shape[1], shape[2], below, vector, outputs)
    else:
        branch = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape[1:]), outputs))
    branch.apply(_draw)
    return branch


def map_exit(channels: int, below: int, width: int, outputs: int) -> nn.Sequential:
    """Return separable convolutions that halve a map, its mean, and a linear layer."""
    steps: list[nn.Module] = []
    for number in range(below):
        last = number == below - 1
        steps.append(separable(channels, width if last else 2 * channels))
        channels *= 2
    if not steps:
        steps.append(nn.Conv2d(channels, width, 1))
    return nn.Sequential(*steps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, outputs))


def separable(channels: int, out_channels: int) -> nn.Sequential:
    """Return two depthwise and pointwise convolutions, of which the first halves the map."""
    parts: list[nn.Module] = []
    for stride, wide in ((2, channels), (1, out_channels)):
        parts += [
            nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
        ]
    return nn.Sequential(*parts)


class TokenExit(nn.Module):
    """From tokens to logits: merged by fours while the grid is large, mixed by blocks, then read.

    Where as many tokens as make a square are preceded by one or two, these are class tokens: they
    are not merged, and the first is read. Of all others the mean is.

    Args:
        tokens: their number.
        dim: entries of a token.
        below: stages behind; at least one block stands between.
        vector: entries of a merged token; class tokens are not merged and leave it at ``dim``.
        outputs: logits.
    """

    def __init__(self, tokens: int, dim: int, below: int, vector: int, outputs: int) -> None:
        super().__init__()
        side = math.isqrt(tokens)
        before = tokens - side**2
        square = before <= PREFIX
        self.before = before if square else 0
        merges = int(math.log2(side / GRID)) if square and side >= 2 * GRID else 0
        self.merges = nn.ModuleList()
        for number in range(merges):
            if side % 2:
                break
            wide = dim if self.before else vector
            self.merges.append(Merge(side, dim, wide, linear=0 < number == merges - 1))
            side, dim = side // 2, wide
        heads = math.gcd(HEADS, dim)
        self.blocks = nn.Sequential(
            *(TransformerBlock(dim, heads, 4 * dim, 0.0, "auto") for _ in range(max(below, 1)))
        )
        self.head = nn.Linear(dim, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``[batch, outputs]``."""
        rest = tokens[:, self.before :]
        for merge in self.merges:
            rest = merge(rest)
        if self.before:
            rest = torch.cat([tokens[:, : self.before], rest], dim=1)
        mixed = self.blocks(rest)
        read = mixed[:, 0] if self.before else mixed.mean(dim=1)
        logits: Tensor = self.head(read)
        return logits


class Merge(nn.Module):
    """Four neighbouring tokens of a square grid become one.

    Args:
        side: tokens on a side, an even number.
        dim: entries of a token.
        out_dim: entries of a merged one.
        linear: whether no GELU follows.
    """

    def __init__(self, side: int, dim: int, out_dim: int, *, linear: bool) -> None:
        super().__init__()
        self.side = side
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, out_dim, bias=False)
        self.activation = nn.Identity() if linear else nn.GELU()

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``[batch, a quarter of the tokens, out_dim]``."""
        batch, _, dim = tokens.shape
        half = self.side // 2
        # [batch, row, up or down, column, left or right, dim]; a column of four is read downwards
        grid = tokens.reshape(batch, half, 2, half, 2, dim).permute(0, 1, 3, 4, 2, 5)
        merged = grid.reshape(batch, half * half, 4 * dim)
        out: Tensor = self.activation(self.reduction(self.norm(merged)))
        return out


def _draw(module: nn.Module) -> None:
    """The authors' first weights: He's, fan out, of convolutions; small normal ones of layers."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
