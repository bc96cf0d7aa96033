"""Factor transfer, OFD's margins and distance, ReviewKD's context loss, against loops."""

import math

import mpmath
import pytest
import torch
from torch import Tensor

from limbeck import functional as lf


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


STUDENT, TEACHER = draw(3, 4, 4, 4), draw(3, 4, 4, 4, seed=1)
MARGIN = -draw(4, seed=2).abs()


def values(tensor: Tensor) -> list[float]:
    return tensor.flatten().tolist()


# FT


def unit(row: list[float]) -> list[float]:
    length = math.sqrt(math.fsum(v * v for v in row))
    return [v / length for v in row]


def naive_factor(sample: Tensor, form: str) -> list[float]:
    if form == "flat":
        return unit(values(sample))
    rows = sample.flatten(1).tolist()
    return unit([sum(row[i] ** 2 for row in rows) / len(rows) for i in range(len(rows[0]))])


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("form", ["attention", "flat"])
def test_factor_transfer_against_loops(form, norm):
    gaps = [
        abs(a - b) ** norm
        for s, t in zip(STUDENT, TEACHER, strict=True)
        for a, b in zip(naive_factor(s, form), naive_factor(t, form), strict=True)
    ]
    value = lf.factor_transfer(STUDENT, TEACHER, form=form, norm=norm)
    assert value.item() == pytest.approx(sum(gaps) / len(gaps), rel=1e-10)


@pytest.mark.parametrize("form", ["attention", "flat"])
def test_factors_have_no_scale_and_any_size(form):
    value = lf.factor_transfer(7 * STUDENT, TEACHER / 3, form=form)
    torch.testing.assert_close(value, lf.factor_transfer(STUDENT, TEACHER, form=form))
    large = draw(3, 4, 8, 8)
    pooled = torch.nn.functional.avg_pool2d(large, 2)
    value = lf.factor_transfer(large, TEACHER, form=form)
    torch.testing.assert_close(value, lf.factor_transfer(pooled, TEACHER, form=form))


def test_factor_transfer_refuses_what_does_not_fit():
    wide = draw(3, 5, 4, 4)
    assert lf.factor_transfer(wide, TEACHER) > 0
    with pytest.raises(ValueError, match=r"factors have 5 channels \(student\) and 4 \(teacher\)"):
        lf.factor_transfer(wide, TEACHER, form="flat")
    with pytest.raises(ValueError, match="form is 'l1'; expected one of attention, flat"):
        lf.factor_transfer(STUDENT, TEACHER, form="l1")
    with pytest.raises(ValueError, match="norm is 0; expected a positive number"):
        lf.factor_transfer(STUDENT, TEACHER, norm=0)


# OFD


@pytest.mark.parametrize(
    ("weight", "bias"), [(1.0, 0.0), (-2.0, 0.5), (0.3, -1.0), (0.7, 2.0), (1e-3, -5.0)]
)
def test_margin_is_the_mean_of_negative_responses(weight, bias):
    """By numerical integration of the normal density."""
    deviation = abs(weight)

    def density(x):
        return mpmath.npdf(x, bias, deviation)

    low = min(bias, 0) - 40 * deviation
    points = sorted({low, min(bias, 0), 0, *(-step * deviation for step in range(1, 10))})
    mass = mpmath.quad(density, points)
    expected = float(mpmath.quad(lambda x: x * density(x), points) / mass)
    margin = lf.batch_norm_margin(*torch.tensor([[weight], [bias]], dtype=torch.float64))
    assert float(margin) == pytest.approx(expected, rel=1e-8)


def test_margins_where_hardly_anything_is_negative():
    weight, bias = torch.tensor([0.5, 0.5, 0.0, 0.0]), torch.tensor([1.54, 1.55, -2.0, 2.0])
    margin = lf.batch_norm_margin(weight, bias).tolist()
    assert margin[0] != -1.5  # Φ(-3.08) = 0.00104 is still common enough
    assert margin[1:] == [-1.5, -2.0, 0.0]  # Φ(-3.1) = 0.00097; two channels that are constants
    with pytest.raises(ValueError, match=r"weight has shape \(4,\) and bias \(3,\)"):
        lf.batch_norm_margin(weight, bias[:3])


def test_margin_distance_against_loops():
    total = 0.0
    for b in range(3):
        for c in range(4):
            m = float(MARGIN[c])
            pairs = zip(values(STUDENT[b, c]), values(TEACHER[b, c]), strict=True)
            for s, t in pairs:
                total += (s - m) ** 2 if s > m and t <= m else 0
                total += (s - t) ** 2 if s > t and m < t <= 0 else 0
                total += (s - t) ** 2 if t > 0 else 0
    value = lf.margin_distance(STUDENT, TEACHER, MARGIN)
    assert value.item() == pytest.approx(total / 3, rel=1e-12)


def test_margin_distance_in_its_limits():
    positive = TEACHER.abs() + 0.1
    value = lf.margin_distance(STUDENT, positive, MARGIN)
    torch.testing.assert_close(value, (STUDENT - positive).square().sum() / 3)
    below = (-10 - STUDENT.abs()).requires_grad_()
    value = lf.margin_distance(below, -TEACHER.abs() - 0.1, MARGIN)
    value.backward()
    assert value == 0
    assert not below.grad.any()
    halves = [lf.margin_distance(STUDENT[:k], TEACHER[:k], MARGIN) for k in (1, 2)]
    assert halves[0] != 2 * halves[1]  # a mean over samples, not a sum


# ReviewKD


def naive_mean_square(student: Tensor, teacher: Tensor) -> float:
    gaps = [(a - b) ** 2 for a, b in zip(values(student), values(teacher), strict=True)]
    return sum(gaps) / len(gaps)


def naive_pool(feature: Tensor, size: int) -> Tensor:
    """Blocks of equal size."""
    step = feature.shape[2] // size
    result = torch.zeros(*feature.shape[:2], size, size, dtype=torch.float64)
    for i in range(size):
        for j in range(size):
            block = feature[:, :, i * step : (i + 1) * step, j * step : (j + 1) * step]
            result[:, :, i, j] = block.mean((2, 3))
    return result


@pytest.mark.parametrize(
    ("side", "sizes"), [(8, (4, 2, 1)), (4, (2, 1)), (2, (1,)), (1, ())], ids=str
)
def test_hierarchical_context_against_loops(side, sizes):
    student, teacher = draw(2, 3, side, side), draw(2, 3, side, side, seed=1)
    total, weights, weight = naive_mean_square(student, teacher), 1.0, 1.0
    for size in sizes:
        weight /= 2
        weights += weight
        total += weight * naive_mean_square(naive_pool(student, size), naive_pool(teacher, size))
    value = lf.hierarchical_context(student, teacher)
    assert value.item() == pytest.approx(total / weights, rel=1e-10)


def test_hierarchical_context_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="features: student has shape"):
        lf.hierarchical_context(STUDENT, draw(3, 5, 4, 4))
    with pytest.raises(ValueError, match="expected maps"):
        lf.hierarchical_context(STUDENT[0], TEACHER[0])


# All of them

LOSSES = {
    "factor": lf.factor_transfer,
    "flat": lambda s, t: lf.factor_transfer(s, t, form="flat"),
    "squared": lambda s, t: lf.factor_transfer(s, t, norm=2),
    "margin": lambda s, t: lf.margin_distance(s, t, MARGIN),
    "context": lf.hierarchical_context,
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


@every_loss
def test_gradient_is_the_numerical_one(loss):
    assert torch.autograd.gradcheck(lambda s: loss(s, TEACHER), STUDENT.clone().requires_grad_())


@every_loss
def test_zero_at_equality_up_to_the_margin_and_no_gradient_to_the_teacher(loss):
    student, teacher = TEACHER.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value == 0 or loss is LOSSES["margin"]
    assert teacher.grad is None
    if loss is not LOSSES["margin"]:
        assert not student.grad.any()


@every_loss
def test_an_empty_batch_costs_nothing_and_has_a_graph(loss):
    student = torch.zeros(0, 4, 4, 4, requires_grad=True)
    value = loss(student, torch.zeros(0, 4, 4, 4))
    value.backward()
    assert value == 0


@every_loss
def test_half_precision_is_accumulated_in_more(loss):
    student, teacher = (100 * STUDENT).half(), (100 * TEACHER).half()
    wide = loss(student.double(), teacher.double())
    torch.testing.assert_close(loss(student, teacher).double(), wide, rtol=1e-3, atol=0)
