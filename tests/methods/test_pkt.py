"""PKT: its published weight, and what its ε leaves at equality."""

import pytest
import torch

from limbeck.errors import MethodError
from limbeck.methods.pkt import PKT


def test_defaults():
    method = PKT()
    assert (method.weight, method.eps, method.pairs) == (30000.0, 1e-7, "penultimate")
    assert PKT.card.task_weight == 1.0


def test_the_exemption_of_its_card_is_as_small_as_it_says():
    student = torch.rand(8, 6, dtype=torch.float64, requires_grad=True)
    slopes = []
    for eps in (1e-7, 1e-9):
        value = PKT(eps=eps).relate(student, student.detach().clone())["pkt"]
        assert value == 0
        slopes.append(float(torch.autograd.grad(value, student)[0].abs().max()))
    assert 0 < slopes[0] <= 1e-7
    assert slopes[1] == pytest.approx(slopes[0] / 100, rel=1e-2)


def test_eps_is_above_0():
    with pytest.raises(MethodError, match=r"method\.eps: expected a number above 0"):
        PKT(eps=0.0)
