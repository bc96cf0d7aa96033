"""KED's equations against loops in float64, and where they must vanish."""

import math

import pytest
import torch

from limbeck.functional import (
    explanation_hessian,
    feature_interactions,
    kd,
    naive_bayes,
    superfeature_explanations,
    superfeature_kd,
)

FLOOR = 1e-15
rng = torch.Generator().manual_seed(3)
STUDENT, TEACHER = (3 * torch.randn(4, 3, 5, generator=rng, dtype=torch.float64) for _ in range(2))
PRIOR = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25], dtype=torch.float64)


def softmax(row):
    top = max(row)
    powers = [math.exp(z - top) for z in row]
    return [p / sum(powers) for p in powers]


def explained(logits):
    """log(softmax + 1e-15), number by number."""
    return [[[math.log(p + FLOOR) for p in softmax(z)] for z in s] for s in logits.tolist()]


def divergence(student, teacher, heat):
    q, p = (softmax([z / heat for z in row]) for row in (student, teacher))
    return sum(b * math.log(b / a) for a, b in zip(q, p, strict=True))


def test_explanations_are_logarithms_of_lifted_probabilities():
    wide = STUDENT * 40  # some probabilities are far below the floor
    found = superfeature_explanations(wide)
    torch.testing.assert_close(found, torch.tensor(explained(wide), dtype=torch.float64))
    assert float(found.min()) >= math.log(FLOOR)
    assert torch.equal(superfeature_explanations(wide, floor=0.0), wide.log_softmax(-1))
    with pytest.raises(ValueError, match="floor is -1; expected a number of at least 0"):
        superfeature_explanations(wide, floor=-1)


def test_the_combination_is_the_normalised_product_with_the_prior_counted_once():
    said = superfeature_explanations(STUDENT)
    found = naive_bayes(said, PRIOR).softmax(-1)
    for sample, row in enumerate(said.exp().tolist()):
        product = [
            row[0][c] * row[1][c] * row[2][c] / float(PRIOR[c]) ** 2 for c in range(len(PRIOR))
        ]
        expected = [value / sum(product) for value in product]
        torch.testing.assert_close(found[sample], torch.tensor(expected, dtype=torch.float64))


def test_one_group_is_its_own_prediction_and_a_uniform_prior_cancels():
    said = superfeature_explanations(STUDENT)
    assert torch.equal(naive_bayes(said[:, :1], PRIOR), said[:, 0])
    uniform = torch.full((5,), 0.2, dtype=torch.float64)
    with_prior, without = naive_bayes(said, uniform), naive_bayes(said)
    torch.testing.assert_close(with_prior.softmax(-1), without.softmax(-1))


def test_a_constant_on_a_branch_changes_no_probability():
    said = superfeature_explanations(STUDENT)
    moved = said + torch.tensor([1.0, -7.0, 3.0]).view(1, 3, 1)
    torch.testing.assert_close(
        naive_bayes(moved, PRIOR).softmax(-1), naive_bayes(said, PRIOR).softmax(-1)
    )


def test_a_prior_of_other_classes_is_refused():
    with pytest.raises(ValueError, match=r"prior has shape \(4,\); expected \(5,\)"):
        naive_bayes(STUDENT, PRIOR[:4])


@pytest.mark.parametrize("heat", [1.0, 10.0])
def test_the_divergence_of_explanations_is_the_loop(heat):
    ours, theirs = superfeature_explanations(STUDENT), superfeature_explanations(TEACHER)
    rows = [
        sum(divergence(a, b, heat) for a, b in zip(s, t, strict=True)) * heat**2 / 3
        for s, t in zip(explained(STUDENT), explained(TEACHER), strict=True)
    ]
    expected = torch.tensor(rows, dtype=torch.float64)

    def found(reduction):
        return superfeature_kd(ours, theirs, temperature=heat, reduction=reduction)

    close = {"rtol": 1e-10, "atol": 0}
    torch.testing.assert_close(found("none"), expected, **close)
    torch.testing.assert_close(found("batchmean"), expected.mean(), **close)
    torch.testing.assert_close(found("sum"), expected.sum(), **close)
    torch.testing.assert_close(found("elementwise"), expected.mean() / 5, **close)


def test_with_one_group_it_is_kd_to_the_bit():
    for dtype in (torch.float32, torch.float64):
        ours, theirs = (
            superfeature_explanations(z[:, :1].to(dtype)).requires_grad_()
            for z in (STUDENT, TEACHER)
        )
        found = superfeature_kd(ours, theirs, temperature=3.0)
        plain = kd(ours[:, 0], theirs[:, 0], temperature=3.0)
        assert torch.equal(found, plain)
        assert torch.equal(*(torch.autograd.grad(v, ours)[0] for v in (found, plain)))


def test_equal_explanations_cost_nothing():
    ours = superfeature_explanations(STUDENT.float()).requires_grad_()
    value = superfeature_kd(ours, ours.detach().clone())
    assert value == 0
    assert not torch.autograd.grad(value, ours)[0].any()


def curved(inputs, weights, slopes):
    return (inputs @ weights).tanh() @ slopes


def test_the_hessian_is_that_of_finite_differences():
    """Second differences of the plain sum of logarithms, sample by sample."""
    weights, slopes = torch.randn(3, 6, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    inputs = torch.randn(5, 3, dtype=torch.float64)
    found = explanation_hessian(inputs, lambda x: curved(x, weights, slopes))
    step, size = 1e-4, 3

    def value(x):
        return (curved(x, weights, slopes).softmax(-1) + FLOOR).log().sum(-1).mean()

    for i in range(size):
        for j in range(size):
            a, b = (step * torch.eye(3, dtype=torch.float64)[k] for k in (i, j))
            second = value(inputs + a + b) - value(inputs + a - b)
            second = (second - value(inputs - a + b) + value(inputs - a - b)) / (4 * step**2)
            torch.testing.assert_close(found[i, j], second, rtol=1e-5, atol=1e-5)
    assert not found.requires_grad


def test_samples_are_averaged_before_the_absolute_value():
    weights, slopes = torch.randn(3, 6, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    inputs = torch.randn(2, 3, dtype=torch.float64)

    def hessian(x):
        return explanation_hessian(x, lambda y: curved(y, weights, slopes))

    torch.testing.assert_close(hessian(inputs), (hessian(inputs[:1]) + hessian(inputs[1:])) / 2)


def test_interactions_are_symmetric_without_a_diagonal():
    hessian = torch.tensor([[5.0, -1.0], [3.0, 2.0]])
    assert feature_interactions(hessian).tolist() == [[0.0, 4.0], [4.0, 0.0]]
    assert hessian.tolist() == [[5.0, -1.0], [3.0, 2.0]]


def test_a_function_without_curvature_has_no_interactions():
    constant = explanation_hessian(torch.randn(2, 3), lambda x: 0 * x)
    linear = explanation_hessian(
        torch.randn(2, 3), lambda x: torch.stack([x.sum(1), x.sum(1)], dim=1)
    )
    assert not feature_interactions(constant).any()
    assert feature_interactions(linear).abs().max() < 1e-6


def test_a_sum_of_functions_of_blocks_has_no_interactions_across():
    """f = g1(x1, x2) + g2(x3, x4), as the logarithm of one class's odds at even odds would be.

    With log p_c = a_c(x1, x2) + b_c(x3, x4) exactly, the normaliser has to be constant.
    """

    def logits_of(x):
        one, two = torch.sin(x[:, 0] * x[:, 1]), torch.cos(x[:, 2] * x[:, 3])
        rest = torch.full_like(one, 40.0)  # the class that takes the mass: log-sum-exp is flat
        return torch.stack([one + two, rest], dim=1)

    inputs = torch.rand(6, 4, dtype=torch.float64)
    strength = feature_interactions(explanation_hessian(inputs, logits_of, floor=0.0))
    assert strength[:2, 2:].abs().max() < 1e-12
    assert strength[0, 1] > 0.1
    assert strength[2, 3] > 0.1
