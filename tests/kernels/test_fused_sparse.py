"""The fused sparse divergence against the plain one, and against dense sums."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from limbeck.functional import kl_sparse
from limbeck.kernels import choice

INF = math.inf
few = settings(derandomize=True, deadline=None, max_examples=60, database=None)


@pytest.fixture(autouse=True)
def fused(monkeypatch):
    monkeypatch.setattr(choice, "FUSED_FROM", 1)
    monkeypatch.setattr(choice, "FEWEST_CLASSES", 1)
    monkeypatch.delenv(choice.VARIABLE, raising=False)


def top(teacher: Tensor, k: int, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    log_p = (teacher.double() / temperature).log_softmax(-1)
    found = log_p.topk(k, dim=-1)
    rest = log_p.scatter(-1, found.indices, -INF).logsumexp(-1)
    return found.indices, found.values, rest


def both(student: Tensor, *teacher: object, **options) -> tuple[Tensor, Tensor]:
    student = student.detach().clone().requires_grad_()
    value = kl_sparse(student, *teacher, **options)
    return value.detach(), torch.autograd.grad(value.sum(), student)[0]


def plainly(*arguments, **options) -> tuple[Tensor, Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(choice.VARIABLE, "plain")
        return both(*arguments, **options)


@st.composite
def cases(draw):
    batch, classes = draw(st.integers(1, 5)), draw(st.integers(2, 14))
    scale = draw(st.sampled_from([1e-3, 1.0, 30.0, 1e3]))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    student, teacher = (torch.randn(batch, classes, generator=rng) * scale for _ in range(2))
    if draw(st.booleans()):
        teacher = student.clone()
    return student, teacher, draw(st.integers(1, classes)), draw(st.sampled_from([1.0, 3.0]))


@few
@given(cases())
def test_in_double_precision_both_forms_are_equal(case):
    student, teacher, k, temperature = case
    kept = top(teacher, k, temperature)
    for reduction in ("batchmean", "elementwise", "none"):
        options = {"temperature": temperature, "reduction": reduction}
        value, slope = both(student.double(), *kept, **options)
        plain_value, plain_slope = plainly(student.double(), *kept, **options)
        torch.testing.assert_close(value, plain_value, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(slope, plain_slope, rtol=1e-11, atol=1e-14)


@few
@given(cases())
def test_single_precision_keeps_its_stated_error(case):
    student, teacher, k, temperature = case
    kept = top(teacher, k, temperature)
    value, slope = both(student, *kept, temperature=temperature, reduction="none")
    exact, exact_slope = plainly(student.double(), *kept, temperature=temperature, reduction="none")
    assert value.dtype == slope.dtype == torch.float32
    assert (value >= 0).all()
    error = (value.double() - exact).abs()
    assert (error <= 1e-5 * exact + 2e-6 * temperature * exact.sqrt() + 1e-12).all()
    torch.testing.assert_close(slope.double(), exact_slope, rtol=1e-5, atol=2e-6 * temperature)


def sampled(batch: int, classes: int) -> tuple[Tensor, Tensor]:
    """Counts of draws; places that are not used hold a class that is, more than once."""
    ids = torch.zeros(batch, 6, dtype=torch.int64)
    logs = torch.full((batch, 6), -INF)
    for row in range(batch):
        used = torch.randperm(classes)[: 1 + row % 4]
        ids[row, : len(used)] = used
        ids[row, len(used) :] = used[0]
        logs[row, : len(used)] = math.log(1 / len(used))
    return ids, logs


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_sample_with_places_not_used(dtype):
    student, (ids, logs) = torch.randn(7, 9).to(dtype), sampled(7, 9)
    value, slope = both(student, ids, logs)
    exact, exact_slope = plainly(student.double(), ids, logs)
    half = dtype in (torch.bfloat16, torch.float16)
    assert slope.dtype == dtype
    assert value.dtype == (torch.float32 if half else dtype)
    torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=0)
    near = 1e-2 if half else 1e-6
    torch.testing.assert_close(slope.double(), exact_slope, rtol=near, atol=near / 10)


def test_a_tail_that_float32_cannot_hold_is_still_a_number():
    student = torch.tensor([[0.0, -250.0, -251.0]])
    kept = torch.tensor([[0]]), torch.tensor([[math.log(0.999)]]), torch.tensor([math.log(0.001)])
    value, slope = both(student, *kept)
    exact, exact_slope = plainly(student.double(), *kept)
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=0)
    torch.testing.assert_close(slope.double(), exact_slope, rtol=1e-5, atol=1e-9)


def test_all_classes_kept_leave_nothing_over():
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    ids, log_p, tail = top(teacher, 5)
    value, slope = both(student, ids, log_p, tail)
    assert torch.isfinite(slope).all()
    torch.testing.assert_close((value, slope), plainly(student, ids, log_p, tail))


def test_masked_logits():
    student, teacher = torch.randn(4, 6), torch.randn(4, 6)
    student[:, 5] = teacher[:, 5] = -INF
    kept = top(teacher, 3)
    torch.testing.assert_close(both(student, *kept), plainly(student, *kept))


def test_several_dimensions_and_second_derivatives():
    student, teacher = torch.randn(2, 3, 7).double(), torch.randn(2, 3, 7)
    kept = top(teacher, 2)
    found = both(student, *kept, reduction="none")
    torch.testing.assert_close(found, plainly(student, *kept, reduction="none"))
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: kl_sparse(s, *kept), student)
    assert torch.autograd.gradgradcheck(lambda s: kl_sparse(s, *kept), student)
