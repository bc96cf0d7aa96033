"""The estimator of λ*, against problems whose answer is known in closed form."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from limbeck.data import DataBundle, bundle_from
from limbeck.diagnostics import estimate_variance
from limbeck.diagnostics.curvature import conjugate_gradients, curvature_along, hessian_product
from limbeck.diagnostics.telling import as_plain, lines
from limbeck.errors import MethodError
from limbeck.models import build_model


def regression(count: int = 60) -> tuple[DataBundle, Tensor, Tensor]:
    """Least squares with noise: inputs of unequal scale, one output."""
    generator = torch.Generator().manual_seed(1)
    scale = torch.tensor([1.0, 0.7, 0.4]).double()
    inputs = torch.randn(count, 3, generator=generator, dtype=torch.float64) * scale
    noise = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5]]).double() + noise
    part = (inputs, targets)
    return bundle_from(part, part, part, task="regression"), inputs, targets


def line(weights: Tensor) -> nn.Module:
    made = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        made.weight.copy_(weights)
    return made


def per_sample(weights: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
    return 2 * (inputs @ weights.T - targets) * inputs


def best(inputs: Tensor, targets: Tensor) -> Tensor:
    return torch.linalg.lstsq(inputs, targets).solution.T


def test_the_moments_are_those_of_all_samples():
    data, inputs, targets = regression()
    theta = torch.tensor([[0.5, -1.0, 1.0]]).double()
    found = estimate_variance(
        line(best(inputs, targets)),
        line(theta),
        data,
        step=0.1,
        batch_size=1,
        num_steps=1000,
        num_batches=60,
        curvature=0.5,
    )
    ours = per_sample(best(inputs, targets), inputs, targets)
    theirs = per_sample(theta, inputs, targets)
    assert found.noise == pytest.approx(float((ours**2).sum(1).mean()))
    assert found.teacher_noise == pytest.approx(float((theirs**2).sum(1).mean()))
    assert found.covariance == pytest.approx(float((ours * theirs).sum(1).mean()))
    assert found.bias == pytest.approx(float((theirs.mean(0) ** 2).sum()))
    assert found.slope == pytest.approx(0, abs=1e-20)
    beta = found.bias / (0.1 * 0.5) / found.teacher_noise
    assert found.beta == pytest.approx(beta)
    assert found.best_lambda == pytest.approx(found.covariance / (found.teacher_noise * (1 + beta)))
    assert found.ratio == pytest.approx(1 - found.correlation**2 / (1 + beta))
    assert found.ratio_at(0.0) == 1


def settled(lam: float, step: float, theta: Tensor, inputs: Tensor, targets: Tensor) -> float:
    """Excess loss that SGD with the biased gradient settles at, by Lyapunov's equation.

    Least squares with one sample a step: the mean is solved exactly, and the noise is that of the
    gradient at the optimum, as the theory has it.
    """
    hessian = 2 * inputs.T @ inputs / len(inputs)
    theirs = per_sample(theta, inputs, targets)
    ours = per_sample(best(inputs, targets), inputs, targets)
    shift = torch.linalg.solve(hessian, lam * theirs.mean(0))
    noise = ours - lam * theirs
    noise = noise - noise.mean(0)
    spread = noise.T @ noise / len(inputs)
    eye = torch.eye(3, dtype=torch.float64)
    shrink = eye - step * hessian
    system = torch.eye(9, dtype=torch.float64) - torch.kron(shrink, shrink)
    covariance = torch.linalg.solve(system, step**2 * spread.flatten()).view(3, 3)
    return float(0.5 * shift @ hessian @ shift + 0.5 * torch.trace(hessian @ covariance))


@pytest.mark.parametrize("distance", [0.02, 0.1, 0.5])
def test_lambda_is_where_the_loss_of_small_steps_is_lowest(distance):
    data, inputs, targets = regression()
    theta = best(inputs, targets) + distance * torch.tensor([[1.0, -1.0, 1.0]]).double()
    step = 1e-3
    found = estimate_variance(
        line(best(inputs, targets)),
        line(theta),
        data,
        step=step,
        batch_size=1,
        num_steps=10**9,
        num_batches=60,
    )
    grid = torch.linspace(0, 1.2, 2401).tolist()
    losses = [settled(lam, step, theta, inputs, targets) for lam in grid]
    lowest = min(losses)
    assert found.best_lambda == pytest.approx(grid[losses.index(lowest)], abs=0.01)
    assert found.ratio == pytest.approx(lowest / losses[0], abs=0.01)


def test_a_teacher_at_the_optimum_takes_all_noise():
    data, inputs, targets = regression()
    at = line(best(inputs, targets))
    found = estimate_variance(
        at, copy.deepcopy(at), data, step=0.1, batch_size=5, num_steps=100, num_batches=24
    )
    assert found.best_lambda == pytest.approx(1)
    assert found.ratio == pytest.approx(0, abs=1e-9)
    assert found.unbiased_lambda == pytest.approx(1)
    assert found.num_batches == 24


def test_a_student_that_was_not_trained_is_told():
    data, inputs, targets = regression()
    theta = line(best(inputs, targets))
    far = line(torch.zeros(1, 3).double())
    found = estimate_variance(far, theta, data, step=0.1, batch_size=5, num_steps=100)
    text = "\n".join(lines(found))
    assert "not at its optimum" in text
    assert f"{found.best_lambda:.3f}  best weight of pvr" in text
    json.dumps(as_plain(found), allow_nan=False)


def test_the_hessian_is_that_of_the_closed_form():
    data, inputs, _ = regression()
    multiply = hessian_product(line(torch.zeros(1, 3).double()), data)
    hessian = 2 * inputs.T @ inputs / len(inputs)
    vector = torch.tensor([1.0, -2.0, 3.0]).double()
    assert torch.allclose(multiply(vector), hessian @ vector, rtol=1e-10)
    mean = curvature_along(line(torch.zeros(1, 3).double()), vector, data, damping=1e-9)
    wanted = float(vector @ vector / (2 * vector @ torch.linalg.solve(hessian, vector)))
    assert mean == pytest.approx(wanted, rel=1e-4)


def test_conjugate_gradients_solve_and_refuse():
    matrix = torch.diag(torch.tensor([1.0, 10.0, 100.0]).double())
    right = torch.ones(3).double()
    assert torch.allclose(conjugate_gradients(lambda v: matrix @ v, right), 1 / matrix.diag())
    with pytest.raises(MethodError, match=r"not convex at this student.*--curvature"):
        conjugate_gradients(lambda v: -v, right)


def test_what_does_not_fit_is_one_line():
    data, inputs, targets = regression(4)
    at = line(best(inputs, targets))
    with pytest.raises(MethodError, match=r"4 labelled samples are less than a batch of 5"):
        estimate_variance(at, at, data, step=0.1, batch_size=5, num_steps=10)
    other = nn.Sequential(line(torch.zeros(1, 3).double()))
    with pytest.raises(MethodError, match=r"method variance: the teacher must be the student's"):
        estimate_variance(at, other, data, step=0.1, batch_size=2, num_steps=10)


def test_the_student_is_given_back_as_it_was():
    data, inputs, targets = regression()
    at = line(best(inputs, targets)).train()
    estimate_variance(at, at, data, step=0.1, batch_size=5, num_steps=10, num_batches=5)
    assert at.training
    assert at.weight.requires_grad
    assert at.weight.grad is None


def test_the_command_line_says_what_lambda_would_be(tmp_path: Path, capsys):
    from limbeck.cli.app import main
    from limbeck.recipe.running import run_recipe

    recipe = {
        "name": "x",
        "data": {"name": "digits", "num_train": 60},
        "student": {"model": "mlp", "widths": []},
        "method": "plain",
        "train": {"epochs": 2, "batch_size": 10, "deploy": "last"},
    }
    for name in ("long", "short"):
        run_recipe(recipe, output=tmp_path / name, quiet=True)
        recipe = {**recipe, "train": {**recipe["train"], "epochs": 1}}
    asked = ["diagnose", str(tmp_path / "long"), "--batches", "12"]
    with pytest.raises(SystemExit) as ended:
        main([*asked, "--teacher", str(tmp_path / "short"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    assert 0 < told["best_lambda"] < 2
    assert told["batch_size"] == 10
    with pytest.raises(SystemExit) as ended:
        main(asked)
    assert ended.value.code == 2
    assert "expected one teacher, the run has none; give another run" in capsys.readouterr().err
    for option, value in (("step", "0"), ("curvature", "-1"), ("batches", "0")):
        with pytest.raises(SystemExit) as ended:
            main([*asked, "--teacher", str(tmp_path / "short"), f"--{option}", value])
        assert ended.value.code == 2
        assert f"variance: {option}: expected a number above 0" in capsys.readouterr().err


def test_networks_are_read_through_their_data(tmp_path: Path):
    """On digits, through normalisation and batches, θ = x gives λ* = 1."""
    from limbeck.data import load_data

    torch.manual_seed(0)
    net = build_model("mlp", num_classes=10, input_shape=(1, 8, 8), widths=[])
    data = load_data("digits", num_train=60)
    found = estimate_variance(
        net, net, data, step=0.1, batch_size=10, num_steps=10, num_batches=6, curvature=1e12
    )
    assert found.best_lambda == pytest.approx(found.covariance / found.teacher_noise, rel=1e-6)
    assert found.unbiased_lambda == pytest.approx(1, rel=1e-5)
