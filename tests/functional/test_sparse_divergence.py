"""Divergences from a teacher of whom some classes are kept, against naive float64 sums."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from limbeck.functional import kl_divergence, kl_sparse

few = settings(derandomize=True, deadline=None, max_examples=40, database=None)


def top(teacher: Tensor, k: int, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest of a teacher at a temperature, and the log of the mass of the rest."""
    log_p = (teacher.double() / temperature).log_softmax(-1)
    found = log_p.topk(k, dim=-1)
    rest = log_p.scatter(-1, found.indices, -math.inf).logsumexp(-1)
    return found.indices, found.values, rest


def sample(teacher: Tensor, rounds: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Counts of draws with replacement, as ids and log-probabilities with unused places."""
    p = teacher.double().softmax(-1)
    drawn = torch.multinomial(p, rounds, replacement=True, generator=rng)
    ids, logs = torch.zeros_like(drawn), torch.full(drawn.shape, -math.inf, dtype=torch.float64)
    for row, one in enumerate(drawn):
        kept, counts = one.unique(return_counts=True)
        ids[row, : len(kept)] = kept
        logs[row, : len(kept)] = (counts.double() / rounds).log()
    return ids, logs


def naive(student: Tensor, ids: Tensor, log_p: Tensor, log_tail: Tensor | None, t: float) -> float:
    """The equation, one sample and one outcome at a time, in Python's floats."""
    total = 0.0
    for row in range(len(student)):
        z = [float(v) / t for v in student[row]]
        most = max(z)
        weights = [math.exp(v - most) for v in z]
        kept, value = set(), 0.0
        for place in range(ids.shape[1]):
            p = math.exp(float(log_p[row, place]))
            if p > 0:
                j = int(ids[row, place])
                kept.add(j)
                value += p * (math.log(p) - (z[j] - most - math.log(math.fsum(weights))))
        if log_tail is not None and float(log_tail[row]) > -math.inf:
            p = math.exp(float(log_tail[row]))
            rest = math.fsum(w for j, w in enumerate(weights) if j not in kept)
            value += p * (math.log(p) - math.log(rest / math.fsum(weights)))
        total += value
    return total / len(student)


@st.composite
def pairs(draw) -> tuple[Tensor, Tensor, int]:
    batch, classes = draw(st.integers(1, 4)), draw(st.integers(2, 12))
    scale = draw(st.sampled_from([1e-3, 1.0, 30.0, 1e4]))
    distance = draw(st.sampled_from([0.0, 1e-6, 1e-2, 1.0]))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    student, noise = (torch.randn(batch, classes, generator=rng) for _ in range(2))
    teacher = student * (1 - distance) + noise * distance
    return student * scale, teacher * scale, draw(st.integers(1, classes))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("k", [1, 3, 9, 10])
def test_top_k_is_the_sum_over_kept_and_tail(k: int, temperature: float) -> None:
    student, teacher = torch.randn(5, 10, dtype=torch.float64), torch.randn(5, 10) * 3
    ids, log_p, tail = top(teacher, k, temperature)
    value = kl_sparse(student, ids, log_p, tail, temperature=temperature)
    expected = temperature**2 * naive(student, ids, log_p, tail, temperature)
    assert float(value) == pytest.approx(expected, rel=1e-10)


def test_a_sample_is_the_sum_over_its_classes() -> None:
    student, teacher = torch.randn(6, 20, dtype=torch.float64), torch.randn(6, 20)
    ids, log_p = sample(teacher, 12, torch.Generator().manual_seed(0))
    expected = naive(student, ids, log_p, None, 1.0)
    assert float(kl_sparse(student, ids, log_p)) == pytest.approx(expected, rel=1e-10)


@few
@given(pairs())
def test_all_classes_kept_give_the_dense_divergence_and_its_gradient(pair) -> None:
    student, teacher, _ = pair
    dense, sparse = (student.double().requires_grad_() for _ in range(2))
    expected = kl_divergence(dense, teacher.double())
    ids, log_p, tail = top(teacher, student.shape[1])
    value = kl_sparse(sparse, ids, log_p, tail)
    expected.backward()
    value.backward()
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(sparse.grad, dense.grad, rtol=1e-9, atol=1e-13)


@few
@given(pairs())
def test_never_negative_at_most_the_dense_one_and_zero_at_equality(pair) -> None:
    student, teacher, k = pair
    ids, log_p, tail = top(teacher, k)
    rows = kl_sparse(student, ids, log_p, tail, reduction="none")
    dense = kl_divergence(student, teacher, reduction="none")
    assert (rows >= 0).all()
    assert (rows <= dense * (1 + 1e-5) + 1e-12).all()
    own = student.double().requires_grad_()
    at_equality = kl_sparse(own, *top(student, k))
    at_equality.backward()
    assert at_equality <= 1e-15
    assert own.grad.abs().max() <= 1e-14


@few
@given(pairs())
def test_a_sample_is_never_negative_though_the_student_equals_the_teacher(pair) -> None:
    student, teacher, k = pair
    rng = torch.Generator().manual_seed(k)
    for other in (student, teacher):
        assert kl_sparse(student, *sample(other, 7, rng)) >= 0


@few
@given(pairs())
def test_single_precision_gives_the_double_precision_value(pair) -> None:
    student, teacher, k = pair
    kept = top(teacher, k)
    wide = kl_sparse(student.double(), *kept)
    torch.testing.assert_close(kl_sparse(student, *kept).double(), wide, rtol=1e-5, atol=1e-13)
    half = student.bfloat16()
    wide = kl_sparse(half.double(), *kept)
    torch.testing.assert_close(kl_sparse(half, *kept).double(), wide, rtol=1e-2, atol=1e-6)


def test_gradient_is_the_numerical_one() -> None:
    student = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    kept = top(torch.randn(3, 6), 2)
    assert torch.autograd.gradcheck(lambda s: kl_sparse(s, *kept, temperature=2.0), student)
    drawn = sample(torch.randn(3, 6), 5, torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda s: kl_sparse(s, *drawn), student)


def test_the_mean_gradient_of_samples_is_the_dense_one() -> None:
    """10,000 draws of 5 from 30 classes: within four standard errors, entry by entry."""
    rng = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(1, 30), torch.randn(1, 30) * 2
    dense = student.double().requires_grad_()
    kl_divergence(dense, teacher.double()).backward()
    draws, rounds = 10_000, 5
    one = student.double().expand(draws, -1).clone().requires_grad_()
    kl_sparse(one, *sample(teacher.expand(draws, -1), rounds, rng), reduction="sum").backward()
    p = teacher.double().softmax(-1)
    error = (p * (1 - p) / rounds / draws).sqrt()
    assert ((one.grad.mean(0) - dense.grad).abs() <= 4 * error).all()
    variance = one.grad.var(0).sum()
    assert float(variance) == pytest.approx(float((1 - p.square().sum()) / rounds), rel=0.03)


def test_order_of_samples_and_places_inputs_and_masks() -> None:
    student, teacher = torch.randn(4, 9), torch.randn(4, 9)
    ids, log_p, tail = top(teacher, 3)
    before = student.clone(), ids.clone(), log_p.clone()
    value = kl_sparse(student, ids, log_p, tail)
    turned = kl_sparse(student.flip(0), ids.flip(0, 1), log_p.flip(0, 1), tail.flip(0))
    torch.testing.assert_close(turned, value)
    assert all(map(torch.equal, before, (student, ids, log_p)))
    wide = torch.cat([ids, ids[:, :1]], 1), torch.cat([log_p, torch.full((4, 1), -math.inf)], 1)
    torch.testing.assert_close(kl_sparse(student, *wide, tail), value)  # a place not used
    masked = torch.cat([student, torch.full((4, 1), -math.inf)], 1).requires_grad_()
    same = kl_sparse(masked, ids, log_p, tail)
    same.backward()
    torch.testing.assert_close(same, value)
    assert torch.isfinite(masked.grad).all()


def test_a_large_vocabulary_and_a_sequence() -> None:
    student = torch.randn(1, 3, 151_936, requires_grad=True)
    ids, log_p, tail = top(torch.randn(1, 3, 151_936), 8)
    rows = kl_sparse(student, ids, log_p, tail, reduction="none")
    assert rows.shape == (1, 3)
    rows.sum().backward()
    assert torch.isfinite(student.grad).all()
    assert student.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_probs": torch.zeros(2, 2)}, "expected the same shape"),
        ({"ids": torch.zeros(3, 1).long(), "log_probs": torch.zeros(3, 1)}, "the same samples"),
        ({"log_tail": torch.zeros(3)}, r"expected \(2,\)"),
        ({"temperature": 0.0}, "expected a positive number"),
        ({"reduction": "mean"}, "expected one of"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(change, message) -> None:
    given = {"ids": torch.zeros(2, 1).long(), "log_probs": torch.zeros(2, 1), **change}
    with pytest.raises(ValueError, match=message) as refused:
        kl_sparse(torch.zeros(2, 4), **given)
    assert "\n" not in str(refused.value)
