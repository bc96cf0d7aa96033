"""The temperature that calibrates a classifier: ``softmax(logits / T)``."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.functional._common import IGNORE, check_positive, check_predictions, float64
from limbeck.functional.calibration import adaptive_calibration_error, negative_log_likelihood

_GRID = tuple(10 ** (step / 20) for step in range(-20, 21))  # 0.1 to 10, with 1 in the middle


class TemperatureFit(NamedTuple):
    """A fitted temperature.

    Attributes:
        temperature: T.
        error: the minimised quantity at T.
        at_bound: T is the end of the range that was searched: the best lies beyond it, for the
            likelihood often at 0 (every label is predicted) or at infinity (no better than chance).
    """

    temperature: float
    error: float
    at_bound: bool


def fit_temperature(
    logits: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    *,
    bounds: tuple[float, float] = (1e-3, 1e4),
) -> TemperatureFit:
    """Temperature of least negative log-likelihood (Guo et al. 1706.04599), at the true optimum.

    The likelihood is convex in 1/T, so its slope there has one root; Newton's method finds it in
    float64, kept inside a bracket that halves (in log T) where a step would leave it. Fit on
    validation data, never on the test set.

    Args:
        logits: ``[batch, classes]``.
        targets: class indices ``[batch]``; -100 for no label.
        bounds: the lowest and the highest temperature considered.

    Returns:
        ``TemperatureFit`` with the negative log-likelihood as its error. Where the temperature
        changes nothing (constant logits) it is 1.

    Raises:
        ValueError: no labelled sample, shapes or bounds that do not fit, or a label whose logit is
            not finite.
    """
    lowest, highest = bounds
    check_positive("the lower bound", lowest)
    check_positive("the upper bound", highest)
    if lowest >= highest:
        raise ValueError(f"bounds are {bounds}; expected the lower one first")
    nll = negative_log_likelihood(logits, targets)
    if not math.isfinite(nll):
        labelled = bool((targets != IGNORE).any())
        reason = "a label has a logit that is not finite" if labelled else "no sample has a label"
        raise ValueError(f"a temperature cannot be fitted: {reason}")
    kept = targets != IGNORE
    z, y = float64(logits.detach(), targets, kept)
    z = z - z.gather(1, y.unsqueeze(1))  # the label's logit is 0: the slope is then E_p[z]
    inverse, at_bound = _root(z, 1 / highest, 1 / lowest)
    temperature = 1 / inverse
    error = negative_log_likelihood(z / temperature, y)
    return TemperatureFit(temperature, float(error), at_bound)


def fit_temperature_by_ace(
    logits: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    *,
    grid: Sequence[float] = _GRID,
    num_bins: int = 15,
) -> TemperatureFit:
    """Temperature of a grid with the least ``adaptive_calibration_error``.

    (Kim et al. 2508.20224 judge teachers by it; how they choose T is not published.)

    Args:
        logits: ``[batch, classes]``.
        targets: class indices ``[batch]``; -100 for no label.
        grid: temperatures to try, 41 from 0.1 to 10 by default; among equals the first is taken.
        num_bins: bins of the error.

    Raises:
        ValueError: an empty grid, a temperature that is not positive, no labelled sample, or shapes
            that do not fit.
    """
    if not grid:
        raise ValueError("grid is empty; expected at least one temperature")
    for temperature in grid:
        check_positive("a temperature of the grid", temperature)
    check_predictions(logits, targets)
    z, y = float64(logits.detach(), targets, targets != IGNORE)
    if not len(y):
        raise ValueError("a temperature cannot be fitted: no sample has a label")
    errors = [
        float(adaptive_calibration_error((z / t).softmax(dim=1), y, num_bins=num_bins))
        for t in grid
    ]
    best = min(range(len(grid)), key=errors.__getitem__)
    at_bound = grid[best] in (min(grid), max(grid)) and len(grid) > 1
    return TemperatureFit(float(grid[best]), errors[best], at_bound)


def _root(z: Tensor, low: float, high: float) -> tuple[float, bool]:
    """Root of the slope of the likelihood in 1/T within [low, high], and whether it is beyond."""
    slope_low, slope_high = _slope(z, low)[0], _slope(z, high)[0]
    if slope_low == slope_high == 0:
        return min(max(1.0, low), high), False
    if slope_low >= 0:
        return low, True
    if slope_high <= 0:
        return high, True
    inverse = min(max(1.0, low), high)
    for _ in range(200):
        slope, curvature = _slope(z, inverse)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        newton = inverse - slope / curvature if curvature > 0 else math.inf
        following = newton if low < newton < high else math.sqrt(low * high)
        if abs(following - inverse) <= 1e-14 * inverse:
            break
        inverse = following
    return inverse, False


def _slope(z: Tensor, inverse: float) -> tuple[float, float]:
    """First and second derivative of the mean negative log-likelihood with respect to 1/T."""
    p = (z * inverse).softmax(dim=1)
    values = z.masked_fill(z == -torch.inf, 0.0)
    mean = (p * values).sum(dim=1, keepdim=True)
    variance = (p * (values - mean) ** 2).sum(dim=1)
    return float(mean.mean()), float(variance.mean())
