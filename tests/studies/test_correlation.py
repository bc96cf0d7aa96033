"""Correlations over teachers against scipy, regressions and naive loops."""

import math

import numpy as np
import pytest
import scipy.stats

from limbeck.studies.correlation import (
    associate,
    correlation,
    explained_difference,
    partial_correlation,
)

POINTS = np.random.default_rng(3).normal(size=(16, 3)) @ np.array(
    [[1.0, 0.6, 0.3], [0.0, 0.8, 0.4], [0.0, 0.0, 0.9]]
)


def test_correlation_is_pearsons() -> None:
    expected = scipy.stats.pearsonr(POINTS[:, 0], POINTS[:, 1]).statistic
    assert float(correlation(POINTS[:, :2])) == pytest.approx(expected)


def test_partial_correlation_is_that_of_residuals() -> None:
    """Independent form: correlate what linear regressions on z leave of x and of y."""
    x, y, z = POINTS.T
    design = np.stack([z, np.ones_like(z)], axis=1)
    left = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y)]
    expected = scipy.stats.pearsonr(*left).statistic
    assert float(partial_correlation(POINTS)) == pytest.approx(expected)


def test_explained_difference_is_that_of_two_regressions() -> None:
    x, y, z = POINTS.T
    expected = scipy.stats.linregress(x, y).rvalue ** 2 - scipy.stats.linregress(z, y).rvalue ** 2
    assert float(explained_difference(POINTS)) == pytest.approx(expected)


def test_without_spread_there_is_no_correlation() -> None:
    flat = np.stack([np.ones(6), np.arange(6.0)], axis=1)
    assert math.isnan(float(correlation(flat)))
    same = np.stack([np.arange(6.0), np.arange(6.0) ** 2, np.arange(6.0)], axis=1)
    assert math.isnan(float(partial_correlation(same)))  # nothing of x is left beside z


def test_the_unit_does_not_matter() -> None:
    tiny = POINTS[:, :2] * 1e-9
    assert float(correlation(tiny)) == pytest.approx(float(correlation(POINTS[:, :2])))


def test_the_interval_is_of_resampled_teachers() -> None:
    found = associate(POINTS[:, :2].tolist(), correlation).found
    rng, naive = np.random.default_rng(11), []
    for _ in range(4000):
        rows = [POINTS[rng.integers(16)] for _ in range(16)]
        naive.append(scipy.stats.pearsonr([r[0] for r in rows], [r[1] for r in rows]).statistic)
    low, high = np.quantile(naive, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.05)
    assert found.high == pytest.approx(high, abs=0.05)
    assert found.num == 16


def test_the_same_table_gives_the_same_interval() -> None:
    assert associate(POINTS.tolist(), partial_correlation) == associate(
        POINTS.tolist(), partial_correlation
    )


def test_a_straight_line_is_certain() -> None:
    found = associate([(float(i), 2.0 * i) for i in range(8)], correlation)
    assert found.found.mean == pytest.approx(1)
    assert found.found.low == pytest.approx(1)
    assert found.p_value == pytest.approx(2 / 10_000, rel=0.01)


def test_chance_is_not_significant() -> None:
    """Of unrelated points, about one interval in twenty leaves 0 out."""
    rng = np.random.default_rng(5)
    p_values = [
        associate(rng.normal(size=(16, 2)).tolist(), correlation).p_value for _ in range(60)
    ]
    assert np.mean([p < 0.05 for p in p_values]) < 0.2
    assert np.mean(p_values) > 0.3


def test_few_teachers_tell_nothing() -> None:
    found = associate([(0.0, 1.0), (1.0, 2.0), (2.0, 3.5)], correlation)
    assert math.isnan(found.p_value)
    assert not found.found.has_interval
