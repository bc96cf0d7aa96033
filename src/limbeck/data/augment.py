"""Augmentation of whole batches from per-sample seeds: any view can be replayed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from limbeck.data.geometry import GeometricParameters, apply_geometric
from limbeck.data.normalize import Normalize, apply_affine
from limbeck.data.seeds import (
    GAMMA,
    bits_to_integers,
    counter_bits,
    counter_integers,
    counter_uniform,
    finalise,
    signed,
)
from limbeck.data.steps import Step, Steps, parse_steps
from limbeck.data.tokens import trim
from limbeck.errors import ShapeError

# One stream of random numbers a use. Changing a number changes every augmented run.
TOP, LEFT, FLIP, ANGLE, CUT_TOP, CUT_LEFT, NOISE = range(1, 8)


class Augment:
    """From raw inputs to what a model sees: float, augmented, normalised.

    Steps are done in this order whatever the order of the list: crop, flip, rotate (geometric),
    noise, normalize, cutout, and last, by whoever draws the batches, mixup. Each sample's draw
    depends on (seed, view, index) alone: the same three give the same pixels, bit for bit, in
    whatever batch the sample comes.

    Args:
        steps: a list of ``{"crop": {"padding": 4, "mode": "zero"}}`` (or "reflect"), ``"flip"``,
            ``{"rotate": degrees}`` (uniform in ± degrees, bilinear), ``{"cutout": size}`` (a square
            in pixels, set to the mean: DeVries and Taylor 2017), ``{"noise": std}`` (normal, std in
            units of [0, 1]), ``{"normalize": {"mean": [...], "std": [...]}}``, ``{"mixup": share}``
            (training samples are mixed with others, up to that share, and have no label then:
            ``limbeck.data.mixing``), and for inputs by name ``"trim"`` (columns of tokens that
            are padding in the whole batch are left out).

    Raises:
        RecipeError: an unknown step, one given twice, or a value out of range.
    """

    def __init__(self, steps: Sequence[Step] = ()) -> None:
        self.steps: Steps = parse_steps(steps)

    def __call__(
        self, inputs: Any, index: Tensor | None = None, *, seed: int = 0, view: int = 0
    ) -> Any:
        """Return the inputs as a model sees them.

        Args:
            inputs: uint8 ``[batch, ...]`` (scaled to [0, 1], float32), or float (left in scale and
                type). Other integers and mappings pass through where there is no step.
            index: int64 ``[batch]``: positions in the data set; needed where a step is random.
            seed: the run's seed.
            view: number of the view (usually the epoch).
        """
        steps = self.steps
        if not isinstance(inputs, Tensor) or _is_codes(inputs):
            if steps == Steps(trim=steps.trim):
                return trim(inputs) if steps.trim else inputs
            kind = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
            raise ShapeError(f"augmentation: expected uint8 or float inputs, got {kind}")
        if self.is_random and index is None:
            raise ShapeError("augmentation: random steps need the samples' index")
        scale = 1 / 255 if inputs.dtype == torch.uint8 else 1.0
        x = inputs
        if steps.is_geometric and index is not None:
            if steps.rotate and inputs.dtype == torch.uint8:
                x = x.to(torch.float32)
            x = apply_geometric(x, self.geometric_parameters(index, seed=seed, view=view))
        x = x.to(torch.float32) if x.dtype == torch.uint8 else x
        x = x.clone() if x is inputs else x
        if steps.noise and index is not None:
            x = apply_affine(x, [scale], [0.0]) + steps.noise * _noise(x, index, seed, view)
            scale = 1.0
        if steps.normalize is not None:
            x = apply_affine(x, *steps.normalize.affine(scale))
        elif scale != 1.0:
            x.mul_(scale)
        if steps.cutout and index is not None:
            x = _cut_out(x, steps.cutout, index, seed, view)
        return x

    @property
    def is_random(self) -> bool:
        """Whether views differ."""
        steps = self.steps
        return steps.is_geometric or steps.noise > 0 or steps.cutout > 0 or steps.mixup > 0

    @property
    def normalization(self) -> Normalize | None:
        """The statistics that inputs are normalised by."""
        return self.steps.normalize

    @property
    def spec(self) -> list[Any]:
        """The steps as a list that builds this pipeline again (for recipes and cache keys)."""
        return self.steps.spec()

    def geometric_parameters(
        self, index: Tensor, *, seed: int, view: int = 0
    ) -> GeometricParameters:
        """Return where each sample's pixels go in this view (for maps: ``apply_geometric``)."""
        steps = self.steps
        top = left = flip = angle = None
        # one pass of the hash for all: its cost is in the number of calls, not of samples
        bits = counter_bits(seed, view, index, (TOP, LEFT, FLIP))
        if steps.crop:
            top, left = bits_to_integers(bits[:2], 2 * steps.crop + 1)
        if steps.flip:
            flip = bits[2] < 0  # the top bit
        if steps.rotate:
            uniform = counter_uniform(seed, view, index, ANGLE)
            angle = (2 * uniform - 1) * math.radians(steps.rotate)
        return GeometricParameters(top, left, steps.crop, steps.crop_mode, flip, angle)

    @staticmethod
    def apply_geometric(tensor: Tensor, parameters: GeometricParameters) -> Tensor:
        """Move images ``[b, c, h, w]`` or maps ``[b, h, w]`` as the parameters say."""
        return apply_geometric(tensor, parameters)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Augment) and self.steps == other.steps

    def __hash__(self) -> int:
        return hash(self.steps)

    def __repr__(self) -> str:
        return f"Augment({self.spec})"


def _is_codes(inputs: Tensor) -> bool:
    """Integers that are not pixels: token or category numbers."""
    return not inputs.is_floating_point() and inputs.dtype != torch.uint8


def _cut_out(x: Tensor, size: int, index: Tensor, seed: int, view: int) -> Tensor:
    """Set a square about a random pixel to 0 (the mean, after normalisation)."""
    if x.dim() != 4:
        raise ShapeError(f"cutout: expected [batch, channels, height, width], got {list(x.shape)}")
    height, width = x.shape[2:]
    top = counter_integers(seed, view, index, CUT_TOP, height) - size // 2
    left = counter_integers(seed, view, index, CUT_LEFT, width) - size // 2
    y = torch.arange(height, device=x.device) - top[:, None]
    z = torch.arange(width, device=x.device) - left[:, None]
    rows, columns = (y >= 0) & (y < size), (z >= 0) & (z < size)
    return x.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def _noise(x: Tensor, index: Tensor, seed: int, view: int) -> Tensor:
    """Standard normal noise in the shape of ``x``, from 16 random bits a value.

    A table of quantiles instead of logarithms and cosines: the same bits on every machine.
    """
    values = x[0].numel()
    keys = counter_bits(seed, view, index, NOISE)[:, None]
    counter = torch.arange(1, (values + 3) // 4 + 1, device=x.device) * signed(GAMMA)
    words = finalise(keys + counter).view(torch.int16).to(torch.int64) + 32768
    table = _quantiles().to(device=x.device, dtype=x.dtype)
    return table.take(words[:, :values]).view_as(x)


@cache
def _quantiles() -> Tensor:
    """The standard normal's quantiles at (k + 1/2) / 65536."""
    table: Tensor = torch.special.ndtri((torch.arange(65536, dtype=torch.float64) + 0.5) / 65536)
    return table


__all__ = ["Augment", "GeometricParameters", "apply_geometric"]
