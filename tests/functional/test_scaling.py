"""Vector and matrix scaling against scikit-learn's logistic regression and scipy."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from limbeck.functional import fit_scaling, fit_temperature, scale_logits


def sample(classes=4, count=400, seed=0):
    """Logits that are too sure and lean to one class, and labels drawn from the true ones."""
    rng = torch.Generator().manual_seed(seed)
    true = torch.randn(count, classes, generator=rng, dtype=torch.float64) * 1.5
    labels = torch.multinomial(true.softmax(1), 1, generator=rng).squeeze(1)
    said = true * torch.linspace(1, 3, classes) + torch.linspace(0, 2, classes)
    return said, labels


def nll(logits, labels):
    """By a plain loop."""
    rows = [-float(torch.log_softmax(z, 0)[int(y)]) for z, y in zip(logits, labels, strict=True)]
    return sum(rows) / len(rows)


def test_matrix_scaling_is_multinomial_logistic_regression():
    z, y = sample()
    fit = fit_scaling(z, y, form="matrix")
    other = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000).fit(z.numpy(), y.numpy())
    probs = torch.from_numpy(other.predict_proba(z.numpy()))
    assert fit.converged
    ours = scale_logits(z, fit.weight, fit.bias).softmax(1)
    torch.testing.assert_close(ours, probs, atol=1e-4, rtol=0)
    assert fit.error == pytest.approx(nll(scale_logits(z, fit.weight, fit.bias), y), rel=1e-12)


def test_vector_scaling_is_the_minimum_that_scipy_finds():
    z, y = sample()
    fit = fit_scaling(z, y)

    def error(numbers):
        scaled = z.numpy() * numbers[:4] + numbers[4:]
        rest = scaled - scaled.max(1, keepdims=True)
        return float((np.log(np.exp(rest).sum(1)) - rest[np.arange(len(y)), y.numpy()]).mean())

    best = minimize(error, np.r_[np.ones(4), np.zeros(4)], method="BFGS", options={"gtol": 1e-7})
    assert fit.error == pytest.approx(best.fun, rel=1e-9)
    np.testing.assert_allclose(fit.weight, best.x[:4], atol=1e-4)
    centred = best.x[4:] - best.x[4:].mean()  # a shift of all biases changes nothing
    np.testing.assert_allclose(fit.bias - fit.bias.mean(), centred, atol=1e-4)


def test_more_numbers_fit_no_worse_and_undo_a_known_distortion():
    z, y = sample(count=4000)
    one = fit_temperature(z, y).error
    vector, matrix = fit_scaling(z, y), fit_scaling(z, y, form="matrix")
    assert matrix.error <= vector.error < one
    undone = vector.weight * torch.linspace(1, 3, 4)  # was stretched by this much
    torch.testing.assert_close(undone, torch.ones(4, dtype=torch.float64), atol=0.15, rtol=0)


@pytest.mark.parametrize("form", ["vector", "matrix"])
def test_a_large_penalty_leaves_one_temperature(form):
    z, y = sample()
    held = fit_scaling(z, y, form=form, penalty=1e5)
    weight = held.weight.diag() if form == "vector" else held.weight
    one = fit_temperature(z, y)
    expected = torch.eye(4, dtype=torch.float64) / one.temperature
    torch.testing.assert_close(weight, expected, atol=1e-3, rtol=0)
    assert float(held.bias.abs().max()) < 1e-3
    loose = fit_scaling(z, y, form=form, penalty=0.01)
    assert fit_scaling(z, y, form=form).error < loose.error < held.error


def test_samples_without_a_label_are_left_out():
    z, y = sample()
    some = y.clone()
    some[::3] = -100
    kept = some != -100
    a, b = fit_scaling(z, some), fit_scaling(z[kept], y[kept])
    assert torch.equal(a.weight, b.weight)
    assert a.error == b.error


def test_labels_that_can_be_told_apart_do_not_converge_and_stay_finite():
    z = torch.eye(3).repeat(4, 1) * 5
    fit = fit_scaling(z, torch.arange(3).repeat(4), form="matrix")
    assert torch.isfinite(fit.weight).all()
    assert fit.error < 1e-4


def test_errors():
    z, y = sample(count=8)
    with pytest.raises(ValueError, match="form is 'diagonal'"):
        fit_scaling(z, y, form="diagonal")
    with pytest.raises(ValueError, match="penalty is -1"):
        fit_scaling(z, y, penalty=-1)
    with pytest.raises(ValueError, match="no sample has a label"):
        fit_scaling(z, torch.full_like(y, -100))
    with pytest.raises(ValueError, match="a logit is not finite"):
        fit_scaling(z.masked_fill(z > 2, torch.inf), y)
    with pytest.raises(ValueError, match="do not fit 4 classes"):
        scale_logits(z, torch.ones(3), torch.zeros(4))
