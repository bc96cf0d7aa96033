"""Correlations over a few teachers: Pearson's r, its partial form, and their bootstrap intervals.

Pure functions of numbers, as :mod:`limbeck.studies.statistics`. A point is a teacher: what it is
like, and how its students did on average. With so few points a formula's interval would lean on
normality, so intervals are percentiles over resampled teachers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limbeck.studies.statistics import Estimate

Numbers = NDArray[np.float64]
Statistic = Callable[[Numbers], Numbers]
"""From points ``[..., teachers, variables]`` to numbers ``[...]``; NaN where there is no spread."""

NUM_RESAMPLES = 9_999
FEWEST = 4  # teachers below which a resample is mostly repetitions


@dataclass(frozen=True)
class Association:
    """A statistic over teachers.

    Attributes:
        found: the statistic and its interval; ``num`` teachers, ``deviation`` over resamples.
        p_value: two-sided, from the share of resamples on the other side of 0; NaN below four
            teachers.
    """

    found: Estimate
    p_value: float


def correlation(points: Numbers) -> Numbers:
    """Return Pearson's r of the first two variables, ``[..., teachers, 2]`` to ``[...]``."""
    centred = points - points.mean(-2, keepdims=True)
    x, y = centred[..., 0], centred[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    # of equal numbers, rounding leaves a trace of spread
    varies = (centred**2).sum(-2) > 1e-24 * (points**2).sum(-2)
    r: Numbers = np.where(varies.all(-1), value, math.nan)
    return r


def partial_correlation(points: Numbers) -> Numbers:
    r"""Return the correlation of x and y given z, of points ``(x, y, z)``.

    .. math:: (r_{xy} - r_{xz} r_{yz}) / \sqrt{(1 - r_{xz}^2)(1 - r_{yz}^2)}
    """
    xy, xz = correlation(points[..., [0, 1]]), correlation(points[..., [0, 2]])
    yz = correlation(points[..., [1, 2]])
    left = (1 - xz**2) * (1 - yz**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        partial: Numbers = np.where(left > 1e-12, (xy - xz * yz) / np.sqrt(left), math.nan)
    return partial


def explained_difference(points: Numbers) -> Numbers:
    """Return how much more of y's variance x explains than z does: R²(x, y) - R²(z, y)."""
    difference: Numbers = (
        correlation(points[..., [0, 1]]) ** 2 - correlation(points[..., [2, 1]]) ** 2
    )
    return difference


def associate(
    points: Sequence[Sequence[float]],
    statistic: Statistic,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Association:
    """Return a statistic over teachers with its percentile bootstrap interval.

    Args:
        points: one for each teacher: the variables that ``statistic`` takes, finite.
        statistic: :func:`correlation`, :func:`partial_correlation`, :func:`explained_difference`.
        confidence: coverage in (0, 1); default 0.95.
        seed: of the resampling, so that a table can be made again.

    Source: Efron (1979), Bootstrap methods: another look at the jackknife.
    """
    table, num, nan = np.asarray(points, dtype=np.float64), len(points), math.nan
    if num < FEWEST:
        return Association(Estimate(nan, nan, num, nan, nan, confidence), nan)
    value = float(statistic(table))
    drawn = np.random.default_rng(seed).integers(0, num, (NUM_RESAMPLES, num))
    again = statistic(table[drawn])
    again = again[np.isfinite(again)]  # a resample of one teacher alone has no correlation
    if math.isnan(value) or len(again) < NUM_RESAMPLES // 2:
        return Association(Estimate(value, nan, num, nan, nan, confidence), nan)
    low, high = np.quantile(again, [(1 - confidence) / 2, (1 + confidence) / 2])
    beyond = min((again <= 0).sum(), (again >= 0).sum())
    p_value = min(1.0, 2 * (1 + float(beyond)) / (1 + len(again)))
    spread = float(again.std(ddof=1))
    return Association(Estimate(value, spread, num, float(low), float(high), confidence), p_value)
