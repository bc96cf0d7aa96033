"""Equations with a backward of their own: differentiated twice, and under ``torch.func``."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from limbeck import functional as lf
from limbeck.functional.relation import MAX_TRIPLES
from limbeck.models.bcos_layers import BcosConv2d, explanation_mode


def draw(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def conv() -> BcosConv2d:
    torch.manual_seed(0)
    return BcosConv2d(2, 3, 2, b=2).double()


def explained(inputs: Tensor) -> Tensor:
    with explanation_mode():
        return CONV(inputs).square().sum()


CONV = conv()
OTHER, MAPS = draw(4, 3, seed=1), draw(2, 2, 2, 2, seed=1)
TWO, DEEPER = draw(2, 3, 2, 2, seed=1), draw(2, 2, 2, 2, seed=2)
CASES: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "angles": (lambda x: lf.rkd_angle(x, OTHER), draw(4, 2)),
    "angles in parts": (lambda x: lf.rkd_angle(x, OTHER, max_triples=16), draw(4, 2)),
    "distances": (lambda x: lf.rkd_distance(x, OTHER), draw(4, 2)),
    "gaussian kernel": (
        lambda x: lf.neuron_selectivity(x, MAPS, kernel="gaussian"),
        draw(2, 2, 2, 2),
    ),
    "singular vectors": (
        lambda x: lf.singular_flow([x, DEEPER], [TWO, DEEPER.flip(0)]),
        draw(2, 3, 2, 2),
    ),
    "b-cos, explained": (explained, draw(1, 2, 3, 3)),
}
cases = pytest.mark.parametrize("name", CASES)


@cases
def test_the_slopes_have_the_numerical_slopes(name):
    form, inputs = CASES[name]
    leaf = inputs.clone().requires_grad_()
    assert torch.autograd.gradgradcheck(form, leaf)


def test_directions_have_second_derivatives_through_the_singular_values_too():
    leaf = draw(2, 3, 2, 2).requires_grad_()
    form = lambda x: lf.singular_directions(x, rank=2)[0]  # noqa: E731
    assert torch.autograd.gradcheck(form, leaf)
    assert torch.autograd.gradgradcheck(form, leaf)


def test_dead_channels_leave_second_derivatives_finite():
    feature = draw(2, 5, 2, 2)
    feature[:, 3:] = 0  # two eigenvalues of 0
    leaf = feature.requires_grad_()
    value = lf.singular_directions(leaf, rank=2)[0].sin().sum()
    (slope,) = torch.autograd.grad(value, leaf, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), leaf)
    assert torch.isfinite(second).all()


@cases
def test_function_transforms_give_the_same(name):
    form, inputs = CASES[name]
    leaf = inputs.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(form(leaf), leaf)
    scale = wanted.abs().max().item()
    found = torch.func.grad(form)(inputs)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12 * scale)
    several = torch.stack([inputs, 2 * inputs + 1, inputs.flip(0)])
    each = torch.stack([torch.func.grad(form)(one) for one in several])
    scale = each.abs().max().item()
    mapped = torch.func.vmap(torch.func.grad(form))(several)
    torch.testing.assert_close(mapped, each, rtol=1e-9, atol=1e-12 * scale)
    with torch.no_grad():  # the backward then runs without a graph of its own, and mapped over
        rows = torch.func.jacrev(lambda x: torch.stack([form(one) for one in x]))(several)
    torch.testing.assert_close(rows.sum(0), each, rtol=1e-9, atol=1e-12 * scale)
    hessian = torch.func.jacrev(torch.func.grad(form))(inputs)
    (slope,) = torch.autograd.grad(form(leaf), leaf, create_graph=True)
    along = inputs.exp()
    (wanted,) = torch.autograd.grad((slope * along).sum(), leaf)
    found = (hessian.flatten(inputs.dim()) * along.flatten()).sum(-1)  # it is symmetric
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-11 * wanted.abs().max().item())


def test_second_derivatives_of_angles_keep_pairs_and_no_triples():
    count = 24
    student, teacher = draw(count, 8).requires_grad_(), draw(count, 5, seed=1)
    sizes = [0]

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = lf.rkd_angle(student, teacher, max_triples=count**2)
        (slope,) = torch.autograd.grad(value, student, create_graph=True)
        second = torch.autograd.grad(slope.square().sum(), student)[0]
    assert max(sizes) <= count**2 < MAX_TRIPLES
    (slope,) = torch.autograd.grad(lf.rkd_angle(student, teacher), student, create_graph=True)
    whole = torch.autograd.grad(slope.square().sum(), student)[0]
    torch.testing.assert_close(second, whole, rtol=1e-9, atol=1e-15)
