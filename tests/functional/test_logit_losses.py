"""The named logit losses against loops and their limiting cases."""

import math

import pytest
import torch
from functional_references import naive_kl

from limbeck.functional import dml, kd, kd_multilabel, kd_regression, kl_divergence


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64) * 2


def test_kd_defaults_to_the_published_form():
    student, teacher = randn(5, 6), randn(5, 6)
    expected = math.fsum(naive_kl(student, teacher, 4.0)) / 5
    assert kd(student, teacher).item() == pytest.approx(expected, rel=1e-10)
    elementwise = kd(student, teacher, reduction="elementwise").item()
    assert elementwise == pytest.approx(expected / 6, rel=1e-10)
    bare = kd(student, teacher, scale_by_temperature_squared=False).item()
    assert bare == pytest.approx(expected / 16, rel=1e-10)


def test_kd_at_high_temperature_matches_centred_logits():
    """Hinton et al., section 2.1: with zero-mean logits it tends to ½/C · ‖student - teacher‖²."""
    student, teacher = (x - x.mean(1, keepdim=True) for x in (randn(5, 6), randn(5, 6)))
    limit = ((student - teacher) ** 2).sum(1).mean() / (2 * 6)
    torch.testing.assert_close(kd(student, teacher, temperature=1e5), limit, rtol=1e-4, atol=0)


def test_dml_sums_or_averages_over_peers():
    student, peers = randn(4, 3), [randn(4, 3) for _ in range(3)]
    expected = sum(math.fsum(naive_kl(student, peer)) / 4 for peer in peers)
    assert dml(student, peers).item() == pytest.approx(expected, rel=1e-10)
    assert dml(student, peers, average=True).item() == pytest.approx(expected / 3, rel=1e-10)
    rows = dml(student, peers, reduction="none")
    assert rows.shape == (4,)
    torch.testing.assert_close(dml(student, peers), rows.mean())
    torch.testing.assert_close(dml(student, peers[:1]), kl_divergence(student, peers[0]))


def test_dml_peers_get_no_gradient_and_no_peers_cost_nothing():
    student, peer = randn(4, 3).requires_grad_(), randn(4, 3).requires_grad_()
    dml(student, [peer]).backward()
    assert peer.grad is None
    assert student.grad.abs().sum() > 0
    student.grad = None
    for reduction in ("batchmean", "none"):
        alone = dml(student, [], reduction=reduction)
        alone.sum().backward()
        assert not alone.any()
        assert not student.grad.any()


def naive_bernoulli_kl(student: float, teacher: float, temperature: float) -> float:
    p, q = (1 / (1 + math.exp(-z / temperature)) for z in (teacher, student))
    kl = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    return temperature**2 * kl


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_multilabel_is_the_sum_of_binary_divergences(temperature):
    student, teacher = randn(4, 3), randn(4, 3)
    total = sum(
        naive_bernoulli_kl(s, t, temperature)
        for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    )
    options = {"temperature": temperature}
    loss = kd_multilabel(student, teacher, **options).item()
    assert loss == pytest.approx(total / 4, rel=1e-9)
    mean = kd_multilabel(student, teacher, reduction="elementwise", **options).item()
    assert mean == pytest.approx(total / 12, rel=1e-9)
    assert kd_multilabel(student, teacher, reduction="none", **options).shape == (4,)
    plain = kd_multilabel(student, teacher, scale_by_temperature_squared=False, **options).item()
    assert plain == pytest.approx(total / 4 / temperature**2, rel=1e-9)


def test_multilabel_gradient_is_the_difference_of_the_probabilities():
    student, teacher = randn(2, 3).requires_grad_(), randn(2, 3)
    loss = kd_multilabel(student, teacher, temperature=2.0, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, student)
    expected = 2 * (torch.sigmoid(student / 2) - torch.sigmoid(teacher / 2))
    torch.testing.assert_close(gradient, expected)


def test_multilabel_at_the_extremes():
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-1e4, -1e4, 1e4]])
    loss = kd_multilabel(student, teacher)
    assert loss.item() == pytest.approx(1e4 + math.log(2), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(gradient, torch.tensor([[1.0, 0.0, -0.5]]))


def test_regression_is_the_squared_distance():
    student = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    teacher = torch.tensor([[0.0, 4.0], [3.0, 0.0]])
    assert kd_regression(student, teacher).item() == (1 + 4 + 9) / 2
    assert kd_regression(student, teacher, reduction="elementwise").item() == 14 / 4
    assert kd_regression(student, teacher, reduction="sum").item() == 14
    assert kd_regression(student, teacher, reduction="none").tolist() == [5, 9]
