"""Attention transfer and neuron selectivity against loops, with their invariances."""

import math

import pytest
import torch
from torch import Tensor

from limbeck import functional as lf


def maps(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


STUDENT, TEACHER = maps(3, 2, 4, 4), maps(3, 5, 4, 4, seed=1)


def unit(values: list[float]) -> list[float]:
    length = math.sqrt(math.fsum(v * v for v in values))
    return [v / length for v in values]


def naive_attention(feature: Tensor, power: int) -> list[float]:
    """One sample's map, entry by entry."""
    channels = feature.flatten(1).tolist()
    positions = range(len(channels[0]))
    return unit([sum(c[i] ** power for c in channels) / len(channels) for i in positions])


@pytest.mark.parametrize("power", [1, 2, 3, 4])
def test_attention_transfer_against_loops(power):
    squares = [
        [(a - b) ** 2 for a, b in zip(*(naive_attention(x, power) for x in pair), strict=True)]
        for pair in zip(STUDENT, TEACHER, strict=True)
    ]
    mean = sum(map(sum, squares)) / (3 * 16)
    value = lf.attention_transfer(STUDENT, TEACHER, power=power)
    assert value.item() == pytest.approx(mean, rel=1e-10)
    norms = sum(math.sqrt(sum(row)) for row in squares) / 3
    value = lf.attention_transfer(STUDENT, TEACHER, power=power, distance="norm")
    assert value.item() == pytest.approx(norms, rel=1e-10)


KERNELS = {
    "poly": lambda x, y, _: math.fsum(a * b for a, b in zip(x, y, strict=True)) ** 2,
    "linear": lambda x, y, _: math.fsum(a * b for a, b in zip(x, y, strict=True)),
    "gaussian": lambda x, y, sigma: math.exp(-distance(x, y) / (2 * sigma)),
}


def distance(x: list[float], y: list[float]) -> float:
    return math.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def naive_selectivity(student: Tensor, teacher: Tensor, kernel: str, bandwidth=None) -> float:
    total = 0.0
    for one, other in zip(student, teacher, strict=True):
        s, t = ([unit(channel) for channel in x.flatten(1).tolist()] for x in (one, other))
        gaps = [distance(x, y) for x in s for y in t]
        sigma = bandwidth or sum(gaps) / len(gaps)

        def mean(first, second, sigma=sigma):
            values = [KERNELS[kernel](x, y, sigma) for x in first for y in second]
            return sum(values) / len(values)

        total += mean(t, t) + mean(s, s) - 2 * mean(s, t)
    return total / len(student)


@pytest.mark.parametrize("kernel", KERNELS)
def test_neuron_selectivity_against_loops(kernel):
    value = lf.neuron_selectivity(STUDENT, TEACHER, kernel=kernel)
    assert value.item() == pytest.approx(naive_selectivity(STUDENT, TEACHER, kernel), rel=1e-10)


def test_the_gaussian_with_a_width_of_ones_own():
    value = lf.neuron_selectivity(STUDENT, TEACHER, kernel="gaussian", bandwidth=0.3)
    expected = naive_selectivity(STUDENT, TEACHER, "gaussian", 0.3)
    assert value.item() == pytest.approx(expected, rel=1e-10)


def test_the_linear_kernel_compares_mean_maps():
    s, t = (torch.nn.functional.normalize(x.flatten(2), dim=2) for x in (STUDENT, TEACHER))
    expected = (s.mean(1) - t.mean(1)).square().sum(1).mean()
    torch.testing.assert_close(lf.neuron_selectivity(STUDENT, TEACHER, kernel="linear"), expected)


LOSSES = {
    "at": lf.attention_transfer,
    "at_norm": lambda s, t: lf.attention_transfer(s, t, distance="norm"),
    "at_cubed": lambda s, t: lf.attention_transfer(s, t, power=3),
    "nst": lf.neuron_selectivity,
    "nst_linear": lambda s, t: lf.neuron_selectivity(s, t, kernel="linear"),
    "nst_gaussian": lambda s, t: lf.neuron_selectivity(s, t, kernel="gaussian", bandwidth=0.5),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


@every_loss
def test_gradient_is_the_numerical_one(loss):
    assert torch.autograd.gradcheck(lambda s: loss(s, TEACHER), STUDENT.clone().requires_grad_())


@every_loss
def test_zero_with_zero_gradient_at_equality_and_no_gradient_to_the_teacher(loss):
    student, teacher = STUDENT.clone().requires_grad_(), STUDENT.clone().requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value == 0
    assert student.grad.abs().max() <= 1e-15
    assert teacher.grad is None


@every_loss
def test_scaling_a_sample_changes_nothing(loss):
    scale = torch.tensor([0.1, 3.0, 70.0], dtype=torch.float64)[:, None, None, None]
    torch.testing.assert_close(loss(scale * STUDENT, TEACHER / scale), loss(STUDENT, TEACHER))


@pytest.mark.parametrize("kernel", KERNELS)
def test_selectivity_sees_neither_the_scale_nor_the_order_of_channels(kernel):
    scale = torch.tensor([0.1, 9.0], dtype=torch.float64)[:, None, None]
    changed = (scale * STUDENT).flip(1)
    torch.testing.assert_close(
        lf.neuron_selectivity(changed, TEACHER, kernel=kernel),
        lf.neuron_selectivity(STUDENT, TEACHER, kernel=kernel),
    )


def test_attention_sees_no_rotation_of_channels_at_power_two():
    turn, _ = torch.linalg.qr(maps(5, 5, seed=4))
    turned = torch.einsum("oc,bchw->bohw", turn, TEACHER)
    torch.testing.assert_close(
        lf.attention_transfer(STUDENT, turned), lf.attention_transfer(STUDENT, TEACHER)
    )


@every_loss
def test_the_larger_map_is_pooled_whichever_it_is(loss):
    pool = torch.nn.functional.adaptive_avg_pool2d
    large, wide = maps(3, 4, 8, 8, seed=2), maps(3, 4, 2, 8, seed=3)
    torch.testing.assert_close(loss(large, TEACHER), loss(pool(large, 4), TEACHER))
    torch.testing.assert_close(loss(STUDENT, large), loss(STUDENT, pool(large, 4)))
    both = loss(pool(wide, (2, 4)), pool(TEACHER, (2, 4)))
    torch.testing.assert_close(loss(wide, TEACHER), both)


@every_loss
def test_dead_maps_and_empty_batches_are_finite(loss):
    dead = torch.zeros(3, 2, 4, 4, requires_grad=True)
    loss(dead, TEACHER.float()).backward()
    assert torch.isfinite(dead.grad).all()
    empty = torch.zeros(0, 2, 4, 4, requires_grad=True)
    value = loss(empty, torch.zeros(0, 5, 4, 4))
    value.backward()
    assert value == 0


@every_loss
def test_half_precision_does_not_overflow(loss):
    student, teacher = (200 * STUDENT).half(), (300 * TEACHER).half()
    wide = loss(student.double(), teacher.double())
    torch.testing.assert_close(loss(student, teacher).double(), wide, rtol=1e-3, atol=0)


@every_loss
def test_other_shapes_are_refused_in_one_line(loss):
    with pytest.raises(ValueError, match=r"expected maps \[batch, channels, height, width\]"):
        loss(STUDENT[0], TEACHER)
    with pytest.raises(ValueError, match=r"of the same samples"):
        loss(STUDENT[:2], TEACHER)


def test_values_without_a_meaning_are_refused():
    with pytest.raises(ValueError, match="distance is 'l1'; expected one of elementwise, norm"):
        lf.attention_transfer(STUDENT, TEACHER, distance="l1")
    with pytest.raises(ValueError, match="power is 0; expected a positive number"):
        lf.attention_map(STUDENT, power=0)
    with pytest.raises(ValueError, match="kernel is 'rbf'; expected one of poly, gaussian, linear"):
        lf.neuron_selectivity(STUDENT, TEACHER, kernel="rbf")
    with pytest.raises(ValueError, match="bandwidth is -1; expected a positive number"):
        lf.neuron_selectivity(STUDENT, TEACHER, kernel="gaussian", bandwidth=-1)
    with pytest.raises(ValueError, match="degree is 0; expected a positive number"):
        lf.neuron_selectivity(STUDENT, TEACHER, degree=0)
