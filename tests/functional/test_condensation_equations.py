"""KCD's value, ranking, schedule and mixing weights."""

import math

import pytest
import torch
from functional_references import naive_softmax

from limbeck.functional import (
    cost_aware_score,
    entropy_value,
    keep_schedule,
    mixing_weights,
    online_mean,
    ranking,
)

INF, NAN = math.inf, math.nan


def test_entropy_against_loops_and_limits():
    logits = torch.randn(6, 5, dtype=torch.float64) * 3
    expected = [-sum(p * math.log(p) for p in naive_softmax(row)) for row in logits.tolist()]
    assert entropy_value(logits).tolist() == pytest.approx(expected, rel=1e-10)
    assert entropy_value(torch.zeros(1, 7)).item() == pytest.approx(math.log(7))
    assert entropy_value(torch.zeros(3, 1)).tolist() == [0, 0, 0]
    assert entropy_value(torch.zeros(0, 3)).shape == (0,)


@pytest.mark.parametrize("low", [-1e4, -1000.0, -INF])
def test_entropy_where_a_probability_underflows(low):
    logits = torch.tensor([[0.0, 0.0, low], [0.0, low, low]], requires_grad=True)
    value = entropy_value(logits)
    torch.testing.assert_close(value, torch.tensor([math.log(2), 0.0]))
    value.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_entropy_precision():
    logits = (torch.randn(30, 9) * 50).clamp(-1e4, 1e4)
    wide = entropy_value(logits.double())
    torch.testing.assert_close(entropy_value(logits).double(), wide, rtol=1e-5, atol=0)
    half = logits.bfloat16()
    assert entropy_value(half).dtype == torch.float32
    torch.testing.assert_close(
        entropy_value(half).double(), entropy_value(half.double()), rtol=1e-2, atol=1e-6
    )


def test_online_mean_is_the_mean_of_all_values():
    values = torch.rand(5, 4, dtype=torch.float64)
    mean, count = torch.full((4,), NAN, dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    for value in values:
        before = mean.clone()
        updated = online_mean(mean, count, value)
        torch.testing.assert_close(mean, before, equal_nan=True)
        mean, count = updated, count + 1
    torch.testing.assert_close(mean, values.mean(0))
    mixed = online_mean(torch.tensor([3.0, 3.0]), torch.tensor([0, 2]), torch.tensor([6.0, 6.0]))
    assert mixed.tolist() == [6.0, 4.0]


def test_score_rewards_use():
    mean = torch.tensor([2.0, 2.0, 2.0])
    score = cost_aware_score(mean, torch.tensor([10, 40, 80]), stage_epochs=40)
    assert score.tolist() == pytest.approx([2 * 0.25**0.03, 2.0, 2 * 2**0.03])
    assert ranking(score).tolist() == [2, 1, 0]
    plain = cost_aware_score(mean, torch.tensor([10, 40, 80]), alpha=0.0, stage_epochs=40)
    assert torch.equal(plain, mean)


def test_the_length_of_a_stage_does_not_change_the_order():
    mean, count = torch.rand(40), torch.randint(1, 60, (40,))
    orders = [ranking(cost_aware_score(mean, count, stage_epochs=n)).tolist() for n in (1, 40, 77)]
    assert orders[0] == orders[1] == orders[2]


@pytest.mark.parametrize("alpha", [0.0, 0.03])
def test_samples_that_were_never_used_are_ranked_first(alpha):
    mean = torch.tensor([0.5, 0.0, 2.0, NAN])
    score = cost_aware_score(mean, torch.tensor([3, 0, 3, 0]), alpha=alpha, stage_epochs=4)
    assert score[1] == score[3] == INF
    assert ranking(score).tolist() == [1, 3, 2, 0]


def test_ranking_is_stable_and_leaves_its_input():
    score = torch.tensor([1.0, 2.0, 1.0, 2.0, INF, NAN])
    before = score.clone()
    assert ranking(score).tolist() == [4, 5, 1, 3, 0, 2]
    assert torch.equal(score.nan_to_num(9), before.nan_to_num(9))
    ties = ranking(torch.ones(5000))
    assert torch.equal(ties, torch.arange(5000))


def test_schedule_of_the_authors():
    sizes = keep_schedule(50_000, tau=0.7, epochs=240, stage_epochs=40)
    assert sizes == (50000, 47500, 45000, 42500, 40000, 37500)
    assert sum(sizes) / (6 * 50_000) == 0.875


def test_schedule_limits():
    assert keep_schedule(50_000, tau=1.0, epochs=240, stage_epochs=40) == (50_000,) * 6
    assert keep_schedule(1000, tau=0.5, epochs=30, stage_epochs=30) == (1000,)
    assert keep_schedule(1000, tau=0.5, epochs=30, stage_epochs=100) == (1000,)
    assert keep_schedule(0, tau=0.5, epochs=2, stage_epochs=1) == (0, 0)
    assert keep_schedule(10, tau=0.5, epochs=100, stage_epochs=10) == (10,) * 10  # int(0.5) = 0
    assert keep_schedule(50_000, tau=0.9, epochs=5, stage_epochs=1)[1] == 49_000  # no 48999.99
    uneven = keep_schedule(1000, tau=0.5, epochs=25, stage_epochs=10)
    assert uneven == (1000, 800, 600)


@pytest.mark.parametrize("tau", [0.1, 0.57, 0.9, 1.0])
@pytest.mark.parametrize(("epochs", "stage"), [(7, 3), (10, 1), (240, 40)])
def test_schedule_never_grows_nor_falls_below_tau(tau, epochs, stage):
    sizes = keep_schedule(1237, tau=tau, epochs=epochs, stage_epochs=stage)
    assert len(sizes) == math.ceil(epochs / stage)
    assert list(sizes) == sorted(sizes, reverse=True)
    assert sizes[0] == 1237
    assert sizes[-1] >= int(tau * 1237)


def test_mixing_weights_fall_from_one():
    weights = mixing_weights(5)
    assert weights[0] == 1
    assert weights.tolist() == pytest.approx([0.7 + 0.3 * (5 - k) / 5 for k in range(5)])
    assert weights[-1].item() == pytest.approx(0.7 + 0.3 / 5)
    assert mixing_weights(4, eps_max=0.0).tolist() == [1, 1, 1, 1]
    assert mixing_weights(0).shape == (0,)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"tau is 1.2; expected a share in \(0, 1\]"):
        keep_schedule(10, tau=1.2, epochs=2, stage_epochs=1)
    with pytest.raises(ValueError, match="stage_epochs is 0; expected at least 1"):
        keep_schedule(10, tau=0.5, epochs=2, stage_epochs=0)
    with pytest.raises(ValueError, match="stage_epochs is 0; expected at least 1"):
        cost_aware_score(torch.ones(1), torch.ones(1, dtype=torch.long), stage_epochs=0)
    with pytest.raises(ValueError, match=r"eps_max is 2; expected a share in \[0, 1\]"):
        mixing_weights(3, eps_max=2)
    with pytest.raises(ValueError, match="num_lost is -1; expected at least 0"):
        mixing_weights(-1)
