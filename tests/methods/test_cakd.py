"""CAKD: three parts that are KL again by the chain rule, against plain loops."""

import math

import pytest
import torch
from functional_references import naive_softmax

from limbeck import functional as lf
from limbeck.errors import MethodError
from limbeck.methods import make_method


@pytest.fixture
def pair():
    return tuple(3 * torch.randn(7, 6, dtype=torch.float64) for _ in range(2))


def kl(p, q):
    return math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def naive_parts(student, teacher, strong, temperature):
    """BCD, SCD, WCD and the mass of the strong classes, per sample."""
    rows = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = naive_softmax(t, temperature), naive_softmax(s, temperature)
        ranked = sorted(range(len(p)), key=lambda k: -t[k])
        inside, outside = ranked[:strong], ranked[strong:]
        a, b = sum(p[k] for k in inside), sum(q[k] for k in inside)
        scd = kl([p[k] / a for k in inside], [q[k] / b for k in inside])
        wcd = kl([p[k] / (1 - a) for k in outside], [q[k] / (1 - b) for k in outside])
        rows.append((kl([a, 1 - a], [b, 1 - b]), scd, wcd, a))
    return rows


@pytest.mark.parametrize("strong", [1, 3, 5])
@pytest.mark.parametrize("by_mass", [False, True])
def test_the_equation(pair, strong, by_mass):
    alpha, beta, gamma, heat = 0.5, 2.0, 3.0, 4.0
    expected = 0.0
    for bcd, scd, wcd, a in naive_parts(*pair, strong, heat):
        inside, outside = (a * scd, (1 - a) * wcd) if by_mass else (scd, wcd)
        expected += heat**2 * (alpha * bcd + beta * inside + gamma * outside) / 7
    value = lf.cakd(
        *pair, strong=strong, alpha=alpha, beta=beta, gamma=gamma, by_mass=by_mass, temperature=heat
    )
    assert float(value) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("strong", [1, 2, 5, 100])
def test_by_mass_with_weights_of_one_it_is_kd(pair, strong):
    student = pair[0].clone().requires_grad_()
    ours = lf.cakd(student, pair[1], strong=strong, by_mass=True, temperature=2.0)
    theirs = lf.kd(student, pair[1], temperature=2.0)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    slopes = (torch.autograd.grad(value, student)[0] for value in (ours, theirs))
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-14)


def test_about_the_label_alone_the_split_is_dkds(pair):
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 2])
    members = torch.nn.functional.one_hot(labels, 6).bool()
    which, inside, outside, mass = lf.split_kl(*pair, members, temperature=3.0)
    label, others = lf.decoupled_kl(*pair, labels, temperature=3.0)
    torch.testing.assert_close(which, label, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(outside, others, rtol=1e-12, atol=1e-15)
    assert inside.tolist() == [0.0] * 7
    probs = (pair[1] / 3).softmax(1).gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(mass, probs, rtol=1e-12, atol=0)


def test_where_one_class_takes_everything_the_weak_ones_stay_exact():
    student = torch.tensor([[0.0, 0.0, -30.0]], requires_grad=True)
    teacher = torch.tensor([[900.0, -40.0, 0.0]])
    value = lf.cakd(student, teacher, strong=1, alpha=0.0, temperature=1.0)
    value.backward()
    assert value.item() == pytest.approx(
        kl(naive_softmax([-40.0, 0.0]), naive_softmax([0.0, -30.0])), rel=1e-6
    )
    assert torch.isfinite(student.grad).all()


def test_the_method_needs_no_labels(pair):
    found = make_method("cakd", strong=2, beta=4.0, weight=0.5)(*pair)
    expected = 0.5 * lf.cakd(*pair, strong=2, beta=4.0, temperature=4.0)
    torch.testing.assert_close(found["cakd"], expected)
    assert make_method("cakd").card.faithful == "after the abstract"


@pytest.mark.parametrize("key", ["strong", "alpha", "beta", "gamma", "temperature"])
def test_bad_values(key):
    with pytest.raises(MethodError, match=rf"method\.{key}: expected"):
        make_method("cakd", **{key: 0 if key in ("strong", "temperature") else -1.0})


def test_sets_that_split_nothing(pair):
    with pytest.raises(ValueError, match="at least one class in the set and one out of it"):
        lf.split_kl(*pair, torch.ones(7, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match="members have shape"):
        lf.split_kl(*pair, torch.ones(7, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="strong is 0"):
        lf.cakd(*pair, strong=0)
    with pytest.raises(ValueError, match="1 classes; expected at least 2"):
        lf.cakd(torch.zeros(2, 1), torch.zeros(2, 1))
