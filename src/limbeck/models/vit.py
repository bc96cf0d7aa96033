"""A small vision transformer of plain modules.

Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021, arXiv 2010.11929), with the usual
pre-norm blocks. ``vit_tiny`` and ``vit_small`` are the sizes that timm gives these names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import ModelError, unknown
from limbeck.models.cnn import check_image
from limbeck.models.mlp import check_dropout, check_sizes
from limbeck.models.registry import register_model

ATTENTION = ("auto", "eager")
POOLING = ("class", "mean")


class Attention(nn.Module):
    """Multi-head self-attention.

    ``mode`` "auto" calls torch's fused attention; "eager" spells the products out, which can be
    differentiated twice and passes the attention map ``[batch, heads, tokens, tokens]`` through
    the module ``map``, so that it can be tapped.
    """

    def __init__(self, dim: int, heads: int, mode: str) -> None:
        super().__init__()
        self.heads = heads
        self.mode = mode
        self.qkv = nn.Linear(dim, 3 * dim)
        self.map = nn.Identity()
        self.projection = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``[batch, tokens, dim]``."""
        batch, count, dim = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.mode == "eager":
            scores = query @ key.transpose(-2, -1) * (dim // self.heads) ** -0.5
            mixed = self.map(scores.softmax(dim=-1)) @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.projection(mixed.transpose(1, 2).reshape(batch, count, dim))
        return out


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden)
        self.activation = nn.GELU()
        self.linear2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``[batch, tokens, dim]``."""
        out: Tensor = self.linear2(self.activation(self.linear1(tokens)))
        return out


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual connection."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, mode: str) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, mode)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``[batch, tokens, dim]``."""
        tokens = tokens + self.dropout(self.attention(self.norm1(tokens)))
        out: Tensor = tokens + self.dropout(self.mlp(self.norm2(tokens)))
        return out


class Pool(nn.Module):
    """One vector a sample: the class token, the one behind it, or the mean of all tokens."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``[batch, dim]``."""
        if self.kind == "mean":
            return tokens.mean(dim=1)
        return tokens[:, 0] if self.kind == "class" else tokens[:, 1]


def check_patch(patch: int, height: int, width: int) -> int:
    """Return the side of a patch; raises ModelError where patches do not tile the image."""
    (patch,) = check_sizes("patch", [patch])
    if height % patch or width % patch:
        raise ModelError(f"patch {patch} does not divide the image {height}x{width}")
    return patch


@register_model("vit")
class ViT(nn.Module):
    """Vision transformer.

    Args:
        num_classes: logits per sample.
        input_shape: ``(channels, height, width)``, both sides divisible by ``patch``.
        patch: side of a patch in pixels.
        dim: width of the tokens, divisible by ``heads``.
        depth: blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the feed-forward part over ``dim``.
        pooling: "class" (a class token) or "mean" (no class token).
        dropout: rate on each residual branch.
        attention: "auto" (torch's fused kernels) or "eager" (second derivatives, tapped maps).
        distilled: with a distillation token behind the class token and a head of its own,
            ``head_dist`` (Touvron et al. 2021, arXiv 2012.12877); the logits are then the mean of
            both heads'. Method ``deit`` trains each head by its own teacher.

    Inputs ``[batch, channels, height, width]``, output logits ``[batch, num_classes]``.
    """

    paper: ClassVar[str] = "Dosovitskiy et al. 2021, arXiv 2010.11929"

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int],
        *,
        patch: int = 4,
        dim: int = 96,
        depth: int = 6,
        heads: int = 3,
        mlp_ratio: float = 4.0,
        pooling: str = "class",
        dropout: float = 0.0,
        attention: str = "auto",
        distilled: bool = False,
    ) -> None:
        super().__init__()
        channels, height, width = check_image("vit", input_shape)
        dim, depth, heads = (
            check_sizes(name, [value])[0]
            for name, value in (("dim", dim), ("depth", depth), ("heads", heads))
        )
        patch = check_patch(patch, height, width)
        if dim % heads:
            raise ModelError(f"heads {heads} does not divide dim {dim}")
        if pooling not in POOLING:
            raise ModelError(unknown("pooling", pooling, POOLING))
        if distilled and pooling != "class":
            raise ModelError("distilled=true needs pooling 'class': the two tokens are read apart")
        rate = check_dropout(dropout)
        self.patches = nn.Conv2d(channels, dim, patch, patch)
        tokens = (height // patch) * (width // patch) + (pooling == "class") + bool(distilled)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim)) if pooling == "class" else None
        self.positions = nn.Parameter(torch.empty(1, tokens, dim))
        nn.init.trunc_normal_(self.positions, std=0.02)
        hidden = max(1, round(dim * mlp_ratio))
        self.blocks = nn.Sequential(
            *(TransformerBlock(dim, heads, hidden, rate, "auto") for _ in range(depth))
        )
        self.set_attention(attention)
        self.norm = nn.LayerNorm(dim)
        self.pool = Pool(pooling)
        self.head = nn.Linear(dim, num_classes)
        self.distillation_token: nn.Parameter | None = None
        if distilled:  # last, so that the other weights are drawn as without it
            self.distillation_token = nn.Parameter(torch.zeros(1, 1, dim))
            nn.init.trunc_normal_(self.distillation_token, std=0.02)
            self.pool_dist = Pool("distillation")
            self.head_dist = nn.Linear(dim, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, num_classes]``."""
        tokens = self.patches(inputs).flatten(2).transpose(1, 2)
        for token in (self.distillation_token, self.class_token):  # the class token is the first
            if token is not None:
                tokens = torch.cat([token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        tokens = self.norm(self.blocks(tokens + self.positions))
        logits: Tensor = self.head(self.pool(tokens))
        if self.distillation_token is None:
            return logits
        distilled: Tensor = self.head_dist(self.pool_dist(tokens))
        return (logits + distilled) / 2

    def set_attention(self, mode: str) -> None:
        """Choose "auto" or "eager" attention in every block; raises ModelError for others."""
        if mode not in ATTENTION:
            raise ModelError(unknown("attention", mode, ATTENTION))
        for module in self.modules():
            if isinstance(module, Attention):
                module.mode = mode

    def roles(self) -> dict[str, list[str] | str]:
        """Where the features are: every block is a stage, tokens ``[batch, tokens, dim]``."""
        return {
            "stages": [f"blocks.{position}" for position in range(len(self.blocks))],
            "penultimate": "pool",
            "head": "head",
        }


# Sizes of Touvron et al., "Training data-efficient image transformers" (2021, arXiv 2012.12877),
# with patches for small images.
register_model("vit_tiny", dim=192, depth=12, heads=3)(ViT)
register_model("vit_small", dim=384, depth=12, heads=6)(ViT)
