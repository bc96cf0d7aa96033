"""MLP-Mixer for small images.

Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision" (2021, arXiv 2105.01601).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from limbeck.models.cnn import check_image
from limbeck.models.mlp import check_dropout, check_sizes
from limbeck.models.registry import register_model
from limbeck.models.vit import FeedForward, Pool, check_patch


class MixerBlock(nn.Module):
    """Two layers over the tokens of each channel, then two over the channels of each token."""

    def __init__(
        self, tokens: int, dim: int, token_hidden: int, channel_hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.tokens = FeedForward(tokens, token_hidden)
        self.norm2 = nn.LayerNorm(dim)
        self.channels = FeedForward(dim, channel_hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[batch, tokens, dim]``."""
        mixed = self.tokens(self.norm1(inputs).transpose(1, 2)).transpose(1, 2)
        inputs = inputs + self.dropout(mixed)
        out: Tensor = inputs + self.dropout(self.channels(self.norm2(inputs)))
        return out


@register_model("mixer")
class Mixer(nn.Module):
    """Patches mixed by layers over tokens and layers over channels; no attention.

    Args:
        num_classes: logits per sample.
        input_shape: ``(channels, height, width)``, both sides divisible by ``patch``.
        patch: side of a patch in pixels.
        dim: width of the tokens.
        depth: blocks.
        token_hidden: hidden width of the layers over tokens.
        channel_hidden: hidden width of the layers over channels.
        dropout: rate on each residual branch.

    Inputs ``[batch, channels, height, width]``, output logits ``[batch, num_classes]``. Images
    must have the size that the network was built for.
    """

    paper: ClassVar[str] = "Tolstikhin et al. 2021, arXiv 2105.01601"

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int],
        *,
        patch: int = 4,
        dim: int = 128,
        depth: int = 8,
        token_hidden: int = 64,
        channel_hidden: int = 512,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels, height, width = check_image("mixer", input_shape)
        dim, depth, token_hidden, channel_hidden = (
            check_sizes(name, [value])[0]
            for name, value in (
                ("dim", dim),
                ("depth", depth),
                ("token_hidden", token_hidden),
                ("channel_hidden", channel_hidden),
            )
        )
        patch = check_patch(patch, height, width)
        rate = check_dropout(dropout)
        tokens = (height // patch) * (width // patch)
        self.patches = nn.Conv2d(channels, dim, patch, patch)
        self.blocks = nn.Sequential(
            *(MixerBlock(tokens, dim, token_hidden, channel_hidden, rate) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(dim)
        self.pool = Pool("mean")
        self.head = nn.Linear(dim, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, num_classes]``."""
        tokens = self.patches(inputs).flatten(2).transpose(1, 2)
        logits: Tensor = self.head(self.pool(self.norm(self.blocks(tokens))))
        return logits

    def roles(self) -> dict[str, list[str] | str]:
        """Where the features are: every block is a stage, tokens ``[batch, tokens, dim]``."""
        return {
            "stages": [f"blocks.{position}" for position in range(len(self.blocks))],
            "penultimate": "pool",
            "head": "head",
        }


# The paper's S, with patches for small images.
register_model("mixer_small", dim=512, depth=8, token_hidden=256, channel_hidden=2048)(Mixer)
