"""letKD's layer: the student guesses what the teacher would see, and uses the guess."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class CosineMap(nn.Module):
    """A 1x1 convolution of directions: ``s ⟨w_k/‖w_k‖, x_i/‖x_i‖⟩``, without a bias.

    Args:
        in_channels: D.
        out_channels: K.
        scale: where the learned scalar s starts.
    """

    def __init__(self, in_channels: int, out_channels: int, *, scale: float) -> None:
        super().__init__()
        deviation = math.sqrt(2 / in_channels)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels).normal_(0, deviation))
        self.scale = nn.Parameter(torch.tensor([float(scale)]))

    def forward(self, positions: Tensor) -> Tensor:
        """Return ``[batch, out_channels, positions]`` for ``[batch, in_channels, positions]``."""
        scores: Tensor = self.scale * normalize(self.weight, dim=1) @ normalize(positions, dim=1)
        return scores

    def extra_repr(self) -> str:
        """Return the sizes, for printing."""
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"


class KnowledgeLayer(nn.Module):
    """x + α v: v is a sum of value vectors, weighted by how well the templates fit (Gorgun 2023).

    Args:
        channels: D, of the features.
        templates: K.
        ratio: α.

    The features are maps ``[batch, D, height, width]``, tokens ``[batch, tokens, D]`` or vectors
    ``[batch, D]``; the output has their shape. ``templates`` gives the scores
    ``[batch, K, positions]`` that the teacher supervises.
    """

    def __init__(self, channels: int, templates: int, ratio: float = 1.0) -> None:
        super().__init__()
        self.templates = CosineMap(channels, templates, scale=3.0)
        self.norm = nn.BatchNorm1d(templates)
        self.values = CosineMap(templates, channels, scale=1.0)
        self.ratio = ratio

    def forward(self, feature: Tensor) -> Tensor:
        """Return the features with what the student makes of its guess."""
        scores = self.templates(as_positions(feature))
        value = self.values(self.norm(scores).relu())
        if feature.ndim == 3:
            value = value.mT
        changed: Tensor = feature + self.ratio * value.reshape(feature.shape)
        return changed


def as_positions(feature: Tensor) -> Tensor:
    """Return maps, tokens or vectors as ``[batch, channels, positions]``."""
    if feature.ndim == 3:
        return feature.mT
    return feature.flatten(2) if feature.ndim == 4 else feature.unsqueeze(-1)
