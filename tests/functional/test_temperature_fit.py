"""Fitted temperatures: the true optimum, known factors, and optima that lie at infinity."""

import math

import pytest
import torch
from scipy.optimize import minimize_scalar

from limbeck.functional import (
    adaptive_calibration_error,
    fit_temperature,
    fit_temperature_by_ace,
    negative_log_likelihood,
)


def overconfident(number: int = 2000, classes: int = 5, factor: float = 3.0):
    """Logits whose softmax is the truth at temperature ``factor``."""
    logits = torch.randn(number, classes, dtype=torch.float64) * 1.5
    targets = torch.multinomial(logits.softmax(1), 1).squeeze(1)
    return logits * factor, targets


@pytest.mark.parametrize("factor", [0.2, 1.0, 3.0, 40.0])
def test_it_is_the_optimum(factor):
    logits, targets = overconfident(500, factor=factor)
    fit = fit_temperature(logits, targets)
    reference = minimize_scalar(
        lambda u: negative_log_likelihood(logits / math.exp(u), targets).item(),
        bounds=(math.log(0.01), math.log(1000)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert fit.temperature == pytest.approx(math.exp(reference.x), rel=1e-5)
    assert fit.error <= reference.fun + 1e-12
    assert not fit.at_bound
    # The slope at the optimum, measured outwards, is zero to rounding.
    for nearby in (0.999, 1.001):
        worse = negative_log_likelihood(logits / (fit.temperature * nearby), targets)
        assert worse > fit.error
    assert fit.error <= negative_log_likelihood(logits, targets)


def test_a_known_factor_is_recovered_and_scales_exactly():
    logits, targets = overconfident(20_000, factor=3.0)
    fit = fit_temperature(logits, targets)
    assert fit.temperature == pytest.approx(3.0, rel=0.03)
    for scale in (0.01, 7.0, 500.0):
        scaled = fit_temperature(logits * scale, targets)
        assert scaled.temperature == pytest.approx(fit.temperature * scale, rel=1e-9)
        assert scaled.error == pytest.approx(fit.error, rel=1e-12)


def test_fitting_the_calibrated_again_gives_one():
    logits, targets = overconfident(300)
    fit = fit_temperature(logits, targets)
    again = fit_temperature(logits / fit.temperature, targets)
    assert again.temperature == pytest.approx(1.0, rel=1e-9)


def test_an_optimum_at_zero_or_infinity_is_said_to_be_at_the_bound():
    logits = torch.randn(30, 4)
    always_right = fit_temperature(logits, logits.argmax(1))
    assert always_right.temperature == pytest.approx(1e-3)
    assert always_right.at_bound
    always_wrong = fit_temperature(logits, logits.argmin(1), bounds=(0.1, 50.0))
    assert always_wrong.temperature == pytest.approx(50.0)
    assert always_wrong.at_bound
    assert always_wrong.error == pytest.approx(math.log(4), rel=0.05)


def test_where_temperature_changes_nothing_it_is_one():
    for logits in (torch.zeros(5, 3), torch.full((5, 1), 3.0)):
        fit = fit_temperature(logits, torch.zeros(5, dtype=torch.long))
        assert fit.temperature == 1.0
        assert not fit.at_bound


def test_extreme_and_masked_logits():
    logits, targets = overconfident(200)
    large = fit_temperature((logits * 500).clamp(-1e4, 1e4), targets)
    assert 500 < large.temperature < 5000
    masked = torch.cat((logits, torch.full((200, 2), -math.inf)), 1)
    fit, plain = fit_temperature(masked, targets), fit_temperature(logits, targets)
    assert fit.temperature == pytest.approx(plain.temperature, rel=1e-9)
    single = fit_temperature(logits.float(), targets)
    assert single.temperature == pytest.approx(plain.temperature, rel=1e-5)


def test_unlabelled_samples_and_order_change_nothing_and_inputs_stay():
    logits, targets = overconfident(200)
    before = logits.clone()
    fit = fit_temperature(logits, targets)
    order = torch.randperm(200)
    shuffled = fit_temperature(logits[order], targets[order])
    assert shuffled.temperature == pytest.approx(fit.temperature, rel=1e-10)
    padded = fit_temperature(
        torch.cat((logits, logits[:9] * 9)), torch.cat((targets, torch.full((9,), -100)))
    )
    assert padded.temperature == pytest.approx(fit.temperature, rel=1e-12)
    assert torch.equal(logits, before)


def test_what_cannot_be_fitted_is_refused():
    logits = torch.randn(3, 2)
    for fit in (fit_temperature, fit_temperature_by_ace):
        with pytest.raises(ValueError, match="no sample has a label"):
            fit(logits, torch.full((3,), -100))
        with pytest.raises(ValueError, match="expected \\[batch, classes\\] and \\[batch\\]"):
            fit(logits, torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="a label has a logit that is not finite"):
        fit_temperature(torch.tensor([[0.0, -math.inf]]), torch.tensor([1]))
    with pytest.raises(ValueError, match="expected the lower one first"):
        fit_temperature(logits, torch.zeros(3, dtype=torch.long), bounds=(2.0, 1.0))
    with pytest.raises(ValueError, match="the lower bound is 0; expected a positive number"):
        fit_temperature(logits, torch.zeros(3, dtype=torch.long), bounds=(0, 1.0))
    with pytest.raises(ValueError, match="grid is empty"):
        fit_temperature_by_ace(logits, torch.zeros(3, dtype=torch.long), grid=[])


def test_the_grid_search_takes_the_least_adaptive_error():
    logits, targets = overconfident(1000, factor=3.0)
    grid = [0.5, 1.0, 2.0, 3.0, 5.0]
    fit = fit_temperature_by_ace(logits, targets, grid=grid, num_bins=10)
    errors = [
        adaptive_calibration_error((logits / t).softmax(1), targets, num_bins=10).item()
        for t in grid
    ]
    assert fit.error == pytest.approx(min(errors))
    assert fit.temperature == 3.0
    assert not fit.at_bound
    cut = fit_temperature_by_ace(logits, targets, grid=[0.5, 1.0])
    assert cut.temperature == 1.0
    assert cut.at_bound
    default = fit_temperature_by_ace(logits[:300], targets[:300])
    assert 2 < default.temperature < 5
