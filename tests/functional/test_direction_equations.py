"""Directions of gradients and loyalty, against loops in float64 and scipy."""

import math

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import pearsonr

from limbeck.functional import (
    direction_distance,
    probability_loyalty,
    row_correlation,
    top_log_odds,
)


def unit(vector: list[float]) -> list[float]:
    size = math.sqrt(math.fsum(x * x for x in vector))
    return [x / size for x in vector] if size > 0 else [0.0] * len(vector)


def cost(ours: list[float], theirs: list[float]) -> float:
    return math.fsum((a - b) ** 2 for a, b in zip(unit(ours), unit(theirs), strict=True))


@pytest.fixture
def pair():
    torch.manual_seed(0)
    ours, theirs = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    return ours, theirs, mask


def test_every_reduction_is_that_of_loops(pair):
    ours, theirs, mask = pair
    costs = [
        [cost(ours[i, j].tolist(), theirs[i, j].tolist()) for j in range(4) if mask[i, j]]
        for i in range(3)
    ]
    flat = [one for text in costs for one in text]
    expected = {
        "samples": sum(sum(text) / len(text) for text in costs) / 3,
        "rows": sum(flat) / 7,
        "batchmean": sum(flat) / 3,
        "elementwise": sum(flat) / 35,
    }
    for reduction, value in expected.items():
        found = direction_distance(ours, theirs, mask, reduction=reduction)
        assert float(found) == pytest.approx(value, rel=1e-12)


def test_scale_means_nothing_and_the_three_directions_cost_0_2_4():
    ours = torch.tensor([[[3.0, 0.0]]], dtype=torch.float64)
    for theirs, expected in (([7.0, 0.0], 0.0), ([0.0, 0.1], 2.0), ([-1e-3, 0.0], 4.0)):
        other = torch.tensor([[theirs]], dtype=torch.float64)
        assert float(direction_distance(ours, other, reduction="batchmean")) == expected


def test_rows_without_direction_and_masked_rows_cost_nothing_more(pair):
    ours, theirs, mask = pair
    value = direction_distance(ours, theirs, mask)
    changed = torch.where(mask[..., None], ours, 1e6)
    assert torch.equal(direction_distance(changed, theirs, mask), value)
    zeros = torch.zeros(1, 2, 3, dtype=torch.float64, requires_grad=True)
    at_zero = direction_distance(zeros, torch.zeros(1, 2, 3, dtype=torch.float64))
    (slope,) = torch.autograd.grad(at_zero, zeros)
    assert float(at_zero.detach()) == 0
    assert not slope.any()


def test_gradients_of_both_orders(pair):
    ours, theirs, mask = pair
    ours = ours.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: direction_distance(x, theirs, mask), ours)
    assert torch.autograd.gradgradcheck(lambda x: direction_distance(x, theirs, mask), ours)
    teacher = theirs.clone().requires_grad_()
    direction_distance(ours, teacher, mask).backward()
    assert teacher.grad is None


def test_wrong_shapes_and_reductions_are_told(pair):
    ours, theirs, mask = pair
    with pytest.raises(ValueError, match=r"student \(3, 4, 5\), teacher \(3, 4, 4\); expected"):
        direction_distance(ours, theirs[..., :4])
    with pytest.raises(ValueError, match=r"mask \(3, 3\); expected the same shape, and a mask"):
        direction_distance(ours, theirs, mask[:, :3])
    with pytest.raises(ValueError, match="reduction is 'mean'; expected samples, rows"):
        direction_distance(ours, theirs, reduction="mean")


def test_log_odds_have_the_direction_of_the_top_probability():
    torch.manual_seed(0)
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    top = logits.softmax(1).amax(1)
    odds = top_log_odds(logits)
    torch.testing.assert_close(odds, (top / (1 - top)).log())
    (of_top,) = torch.autograd.grad(top.sum(), logits)
    (of_odds,) = torch.autograd.grad(odds.sum(), logits)
    scale = (top * (1 - top)).detach()[:, None]
    torch.testing.assert_close(of_odds * scale, of_top)


def test_log_odds_have_a_direction_where_the_probability_has_none():
    logits = torch.tensor([[500.0, 0.0, 1.0]], requires_grad=True)
    (of_top,) = torch.autograd.grad(logits.softmax(1).amax(1).sum(), logits)
    (of_odds,) = torch.autograd.grad(top_log_odds(logits).sum(), logits)
    assert not of_top.any()
    torch.testing.assert_close(
        of_odds, torch.tensor([[1.0, -1 / (1 + math.e), -math.e / (1 + math.e)]])
    )
    with pytest.raises(ValueError, match="logits have 1 class; expected at least 2"):
        top_log_odds(logits[:, :1])


def test_probability_loyalty_is_one_minus_scipys_distance():
    torch.manual_seed(0)
    ours, theirs = torch.randn(2, 5, 3, dtype=torch.float64) * 3
    expected = [
        1 - jensenshannon(p, q)
        for p, q in zip(ours.softmax(1).numpy(), theirs.softmax(1).numpy(), strict=True)
    ]
    assert probability_loyalty(ours, theirs).tolist() == pytest.approx(expected, rel=1e-9)
    assert probability_loyalty(ours, ours).tolist() == pytest.approx([1.0] * 5)


def test_row_correlation_is_scipys_of_the_rows_that_count(pair):
    ours, theirs, mask = (one[..., 0] if one.dim() == 3 else one for one in pair)
    found = row_correlation(ours, theirs, mask).tolist()
    assert found[0] == pytest.approx(pearsonr(ours[0].numpy(), theirs[0].numpy())[0], rel=1e-12)
    assert abs(found[1]) == pytest.approx(1.0)  # two points lie on a line
    assert math.isnan(found[2])
    assert math.isnan(row_correlation(torch.ones(1, 3), torch.randn(1, 3)).item())
    assert row_correlation(ours, ours).tolist() == pytest.approx([1.0] * 3)
    assert row_correlation(ours, -7 * ours).tolist() == pytest.approx([-1.0] * 3)


def test_dropout_biases_a_gradient_as_theorem_1_says():
    """f(x) = x A x / 2 behind a dropout of rate δ: E[grad f(x ∘ ξ)] = A x + δ/(1-δ) diag(A) x."""
    torch.manual_seed(0)
    rate, size = 0.3, 4
    form = torch.randn(size, size, dtype=torch.float64)
    form = form + form.T
    x = torch.randn(size, dtype=torch.float64)
    kept = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * size)
    chance = (kept * (1 - rate) + (1 - kept) * rate).prod(dim=1)
    mean = torch.zeros(size, dtype=torch.float64)
    for mask, share in zip(kept / (1 - rate), chance, strict=True):  # all masks: no sampling error
        start = x.clone().requires_grad_()
        seen = start * mask
        (slope,) = torch.autograd.grad(0.5 * seen @ form @ seen, start)
        mean += share * slope
    torch.testing.assert_close(mean, form @ x + rate / (1 - rate) * form.diagonal() * x)
