"""Input statistics, and moving inputs from one model's statistics to another's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.errors import RecipeError, ShapeError


@dataclass(frozen=True)
class Normalize:
    """What a model expects of its inputs: (x - mean) / std for x in [0, 1].

    Attributes:
        mean: one number, or one a channel (dimension 1).
        std: likewise, above 0.

    Raises:
        RecipeError: lengths differ, a number is not finite, or a std is not above 0.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if len(self.mean) != len(self.std) or not self.mean:
            raise RecipeError(
                f"normalize: {len(self.mean)} means and {len(self.std)} stds; expected as many"
            )
        for value in (*self.mean, *self.std):
            if not math.isfinite(value):
                raise RecipeError(f"normalize: {value} is not a finite number")
        if min(self.std) <= 0:
            raise RecipeError(f"normalize: std {min(self.std)} must be above 0")

    def same_as(self, other: Normalize) -> bool:
        """Whether both do the same: one number for all channels equals that number for each."""
        size = max(len(self.mean), len(other.mean))
        pairs = ((self.mean, other.mean), (self.std, other.std))
        return all(_widen(ours, size) == _widen(theirs, size) for ours, theirs in pairs)

    def affine(self, scale: float = 1.0) -> tuple[list[float], list[float]]:
        """Return (a, b) per channel with a * x + b = (x * scale - mean) / std."""
        return (
            [scale / std for std in self.std],
            [-mean / std for mean, std in zip(self.mean, self.std, strict=True)],
        )

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the normalised copy of float ``inputs`` ``[batch, channels, ...]``."""
        return apply_affine(inputs.clone(), *self.affine())


def renormalize(x: Tensor, from_stats: Normalize | None, to_stats: Normalize | None) -> Tensor:
    """Move inputs normalised by one model's statistics to another's.

    A teacher with other statistics than the student's must not see the student's inputs.

    Args:
        x: ``[batch, channels, ...]`` normalised by ``from_stats``; not written to.
        from_stats: None: x is in [0, 1].
        to_stats: None: give [0, 1].

    Returns:
        (x * std_from + mean_from - mean_to) / std_to; ``x`` itself where both are the same.
    """
    source, target = from_stats or Normalize(), to_stats or Normalize()
    if source.same_as(target):
        return x
    size = max(len(source.mean), len(target.mean))
    from_mean, from_std = _widen(source.mean, size), _widen(source.std, size)
    to_mean, to_std = _widen(target.mean, size), _widen(target.std, size)
    scale = [a / b for a, b in zip(from_std, to_std, strict=True)]
    shift = [(a - b) / c for a, b, c in zip(from_mean, to_mean, to_std, strict=True)]
    return apply_affine(x.clone(), scale, shift)


def apply_affine(x: Tensor, scale: list[float], shift: list[float]) -> Tensor:
    """Compute x * scale + shift per channel (dimension 1), in place; x is float.

    Two roundings on purpose: a fused multiply-add would round the ends of a row differently from
    its middle, and pixels would depend on the batch.
    """
    if len(scale) == 1:
        return x.mul_(scale[0]).add_(shift[0])
    if x.dim() < 2 or x.shape[1] != len(scale):
        raise ShapeError(f"normalize: {len(scale)} channels for inputs of shape {list(x.shape)}")
    shape = (len(scale), *[1] * (x.dim() - 2))
    factor = torch.tensor(scale, dtype=x.dtype, device=x.device).view(shape)
    return x.mul_(factor).add_(torch.tensor(shift, dtype=x.dtype, device=x.device).view(shape))


def _widen(values: tuple[float, ...], size: int) -> tuple[float, ...]:
    return values * size if len(values) == 1 else values
