"""NKD against its equation in plain loops, and what its parts mean."""

import math

import pytest
import torch
from functional_references import naive_softmax

from limbeck import functional as lf
from limbeck.errors import MethodError
from limbeck.methods import make_method


@pytest.fixture
def scene():
    student, teacher = (3 * torch.randn(7, 6, dtype=torch.float64) for _ in range(2))
    return student, teacher, torch.tensor([0, 1, 2, 3, 4, 5, 2])


def naive_nkd(student, teacher, labels, gamma, temperature):
    total = 0.0
    for s, t, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        total -= naive_softmax(t)[y] * math.log(naive_softmax(s)[y])
        others = [k for k in range(len(s)) if k != y]
        p, q = (naive_softmax([z[k] for k in others], temperature) for z in (t, s))
        total -= gamma * temperature**2 * sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    return total / len(student)


@pytest.mark.parametrize(("gamma", "temperature"), [(1.5, 1.0), (3.5, 3.0), (0.0, 2.0)])
def test_the_equation(scene, gamma, temperature):
    value = lf.nkd(*scene, gamma=gamma, temperature=temperature)
    assert float(value) == pytest.approx(naive_nkd(*scene, gamma, temperature), rel=1e-10)


def test_the_others_are_dkds_among_the_others_plus_an_entropy(scene):
    student, teacher, labels = scene
    student.requires_grad_()
    both = lf.nkd(student, teacher, labels, temperature=2.0, gamma=1.0)
    label = lf.nkd(student, teacher, labels, gamma=0.0)
    _, others = lf.decoupled_kl(student, teacher, labels, temperature=2.0)
    ours, theirs = (torch.autograd.grad(v, student)[0] for v in (both - label, 4 * others.mean()))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


def test_a_teacher_sure_of_the_label_adds_the_cross_entropy(scene):
    student, _, labels = scene
    sure = 1e3 * torch.nn.functional.one_hot(labels, 6).double()
    value = lf.nkd(student, sure, labels, gamma=0.0)
    torch.testing.assert_close(value, lf.cross_entropy(student, labels), rtol=1e-12, atol=0)


def test_samples_without_a_label_cost_nothing(scene):
    student, teacher, labels = scene
    some = labels.clone()
    some[4:] = -100
    rows = lf.nkd(student, teacher, labels, reduction="none")
    assert lf.nkd(student, teacher, some, reduction="none")[4:].tolist() == [0.0] * 3
    assert float(lf.nkd(student, teacher, some)) == pytest.approx(float(rows[:4].sum()) / 7)


def test_where_the_label_takes_everything_the_others_stay_exact():
    student = torch.tensor([[50.0, 0.0, -30.0]], requires_grad=True)
    teacher = torch.tensor([[800.0, -40.0, 0.0]])
    value = lf.nkd(student, teacher, torch.tensor([0]), gamma=1.0)
    value.backward()
    p, q = naive_softmax([-40.0, 0.0]), naive_softmax([0.0, -30.0])
    expected = -sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert torch.isfinite(student.grad).all()


def test_the_method(scene):
    student, teacher, labels = scene
    found = make_method("nkd", gamma=3.5, temperature=3.0, weight=0.5)(student, teacher, labels)
    expected = 0.5 * naive_nkd(*scene, 3.5, 3.0)
    assert float(found["nkd"]) == pytest.approx(expected, rel=1e-10)
    method = make_method("nkd")
    assert (method.weight, method.card.task_weight, method.gamma) == (1.0, 1.0, 1.5)


@pytest.mark.parametrize(
    ("change", "line"),
    [({"gamma": -1.0}, r"method\.gamma: expected"), ({"temperature": 0.0}, r"method\.temperature")],
)
def test_bad_values(change, line):
    with pytest.raises(MethodError, match=line):
        make_method("nkd", **change)


def test_it_needs_labels_and_two_classes(scene):
    with pytest.raises(MethodError, match="method nkd: needs the label of each sample"):
        make_method("nkd")(*scene[:2])
    with pytest.raises(ValueError, match="1 classes; expected at least 2"):
        lf.nkd(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"temperature is -1\.0"):
        lf.nkd(*scene, temperature=-1.0)
