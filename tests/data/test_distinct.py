"""Draws without repetition: permutations, alike, and the same wherever they are asked for."""

import pytest
import torch

from limbeck.data.distinct import counter_draws


def test_all_numbers_below_a_bound_are_a_permutation():
    highs = torch.tensor([1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 200])
    for place, high in enumerate(highs.tolist()):
        draws = counter_draws(1, 0, torch.tensor([place]), highs[place : place + 1], high)
        assert sorted(draws[0].tolist()) == list(range(high))


def test_bounds_may_differ_and_too_small_ones_repeat():
    highs = torch.tensor([3, 1000, 10, 2**31 - 1])
    draws = counter_draws(1, 0, torch.arange(4), highs, 10)
    assert (draws >= 0).all()
    assert (draws < highs[:, None]).all()
    assert all(len(row.unique()) == 10 for row in draws[1:])
    assert len(draws[0].unique()) > 1


def test_a_sample_draws_the_same_in_any_company():
    index, highs = torch.tensor([5, 90, 7]), torch.tensor([50, 4, 60])
    together = counter_draws(3, 2, index, highs, 8)
    for place in range(3):
        alone = counter_draws(3, 2, index[place : place + 1], highs[place : place + 1], 8)
        assert torch.equal(alone[0], together[place])
    for other in ((4, 2), (3, 1)):
        assert not torch.equal(counter_draws(*other, index, highs, 8), together)


@pytest.mark.parametrize("size", [3, 7, 12, 40])
def test_every_number_is_as_likely_at_every_place_and_pairs_are_too(size):
    trials = 40_000
    index = torch.arange(trials)
    draws = counter_draws(9, 0, index, torch.full((trials,), size), size)
    counts = torch.stack([draws[:, place].bincount(minlength=size) for place in range(size)])
    expected = trials / size
    statistic = float(((counts - expected) ** 2 / expected).sum())
    freedom = (size - 1) ** 2
    assert abs(statistic - freedom) < 4 * (2 * freedom) ** 0.5
    pairs = (draws[:, 0] * size + draws[:, 1]).bincount(minlength=size**2).view(size, size)
    assert pairs.diagonal().sum() == 0
    expected = trials / (size * (size - 1))
    off = pairs[~torch.eye(size, dtype=torch.bool)]
    statistic, freedom = float(((off - expected) ** 2 / expected).sum()), size * (size - 1) - 1
    assert abs(statistic - freedom) < 4 * (2 * freedom) ** 0.5
