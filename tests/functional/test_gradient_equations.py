"""Partial variance reduction: the control variate, and what theory says of λ."""

import pytest
import torch

from limbeck import functional as lf


def logistic(weights, inputs, labels):
    """Per-sample gradients of logistic regression, written out."""
    p = 1 / (1 + torch.exp(-inputs @ weights))
    return (p - labels)[:, None] * inputs


@pytest.fixture(scope="module")
def problem():
    """Logistic regression with its optimum by Newton's method, and a teacher that is not it."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 5, generator=generator, dtype=torch.float64)
    truth = torch.randn(5, generator=generator, dtype=torch.float64)
    labels = (inputs @ truth + 2 * torch.randn(400, generator=generator) > 0).double()
    best = torch.zeros(5, dtype=torch.float64)
    for _ in range(50):
        p = torch.sigmoid(inputs @ best)
        hessian = (inputs * (p * (1 - p))[:, None]).T @ inputs / 400
        best = best - torch.linalg.solve(hessian, logistic(best, inputs, labels).mean(0))
    teacher = best + 0.4 * torch.randn(5, generator=generator, dtype=torch.float64)
    return inputs, labels, best, teacher


def moments(ours, theirs, step_times_curvature):
    return {
        "noise": float((ours**2).sum(1).mean()),
        "teacher_noise": float((theirs**2).sum(1).mean()),
        "covariance": float((ours * theirs).sum(1).mean()),
        "bias": float((theirs.mean(0) ** 2).sum()) / step_times_curvature,
    }


@pytest.mark.parametrize("step_times_curvature", [0.01, 0.5, 1e9])
def test_the_best_lambda_and_its_ratio_are_those_of_a_grid(problem, step_times_curvature):
    inputs, labels, best, teacher = problem
    told = moments(
        logistic(best, inputs, labels), logistic(teacher, inputs, labels), step_times_curvature
    )
    grid = torch.linspace(0, 2, 200_001, dtype=torch.float64)
    values = torch.tensor([lf.neighbourhood(float(one), **told) for one in grid[::100]])
    noise, bias = told["noise"], told["bias"]
    written_out = noise - 2 * grid * told["covariance"] + grid**2 * (told["teacher_noise"] + bias)
    assert torch.allclose(values.double(), written_out[::100], rtol=1e-6)
    covariance = {key: told[key] for key in ("teacher_noise", "covariance", "bias")}
    assert lf.best_lambda(**covariance) == pytest.approx(
        float(grid[written_out.argmin()]), abs=1e-5
    )
    ratio = float(written_out.min() / written_out[0])
    assert lf.expected_ratio(**told) == pytest.approx(ratio, abs=1e-9)
    rho = told["covariance"] / (noise * told["teacher_noise"]) ** 0.5
    beta = bias / told["teacher_noise"]
    assert lf.expected_ratio(**told) == pytest.approx(1 - rho**2 / (1 + beta), abs=1e-12)


def test_the_variance_of_the_gradient_is_that_of_the_formula(problem):
    inputs, labels, best, teacher = problem
    ours, theirs = logistic(best, inputs, labels), logistic(teacher, inputs, labels)
    told = moments(ours, theirs, 1e300)
    for lam in (0.0, 0.3, 1.0, 1.7):
        found = lf.control_variate(ours, theirs, lam=lam)
        variance = float(((found - found.mean(0)) ** 2).sum(1).mean())
        mean = float((found.mean(0) ** 2).sum())
        assert variance == pytest.approx(lf.neighbourhood(lam, **told) - mean, rel=1e-10)


def test_a_teacher_at_the_optimum_removes_all_noise(problem):
    inputs, labels, best, _ = problem
    at = logistic(best, inputs, labels)
    told = moments(at, at, 0.1)
    assert lf.expected_ratio(**told) == pytest.approx(0, abs=1e-12)
    told.pop("noise")
    assert lf.best_lambda(**told) == pytest.approx(1, abs=1e-12)


def test_a_teacher_that_knows_nothing_in_common_is_left_alone():
    assert lf.best_lambda(teacher_noise=2.0, covariance=0.0) == 0
    assert lf.expected_ratio(noise=1.0, teacher_noise=2.0, covariance=0.0) == 1
    assert lf.best_lambda(teacher_noise=0.0, covariance=0.0) == 0
    assert lf.expected_ratio(noise=0.0, teacher_noise=2.0, covariance=0.0) == 1


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0, 2.5])
def test_the_recentred_form_is_unbiased_for_any_lambda_and_teacher(problem, lam):
    inputs, labels, _, teacher = problem
    student = torch.linspace(-1, 1, 5, dtype=torch.float64)
    ours, theirs = logistic(student, inputs, labels), logistic(teacher, inputs, labels)
    full = theirs.mean(0).expand_as(theirs)
    assert torch.allclose(
        lf.control_variate(ours, theirs, full, lam=lam).mean(0), ours.mean(0), atol=1e-14
    )
    biased = lf.control_variate(ours, theirs, lam=lam).mean(0)
    assert torch.allclose(biased, ours.mean(0), atol=1e-3) == (lam == 0)


def test_the_tangent_rise_has_the_teachers_gradient_and_its_height():
    x = [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([[3.0]], requires_grad=True)]
    theta = [torch.tensor([0.0, 1.0]), torch.tensor([[5.0]])]
    slopes = [torch.tensor([2.0, -1.0]), torch.tensor([[0.5]])]
    rise = lf.tangent_rise(x, theta, slopes)
    assert float(rise.detach()) == 2 * 1 - 1 * 1 + 0.5 * -2
    rise.backward()
    assert all(torch.equal(one.grad, slope) for one, slope in zip(x, slopes, strict=True))


def test_parameters_that_do_not_match_are_named():
    one, two, three = torch.zeros(1), torch.zeros(2), torch.zeros(3)
    with pytest.raises(ValueError, match=r"parameter 1: student \(2,\), teacher \(3,\)"):
        lf.tangent_rise([one, two], [one, three], [one, two])
