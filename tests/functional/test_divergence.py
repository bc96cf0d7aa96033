"""Divergences: values, gradients, precision, masks, limits."""

import math

import mpmath
import pytest
import torch
from functional_references import exact_kl, naive_kl, naive_softmax
from torch import Tensor

from limbeck.functional import (
    jensen_shannon,
    kl_divergence,
    kl_from_log_probs,
    kl_to_probs,
    reverse_kl,
    soft_cross_entropy,
)

INF = math.inf


def randn(*shape: int, scale: float = 3.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.randn(*shape, dtype=torch.float64) * scale).to(dtype)


def grad_of(function, student: Tensor) -> Tensor:
    student = student.clone().requires_grad_()
    return torch.autograd.grad(function(student).sum(), student)[0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_value_is_the_naive_one(temperature):
    student, teacher = randn(6, 5), randn(6, 5)
    rows = kl_divergence(student, teacher, temperature=temperature, reduction="none")
    expected = torch.tensor(naive_kl(student, teacher, temperature), dtype=torch.float64)
    torch.testing.assert_close(rows, expected, rtol=1e-10, atol=0)
    back = reverse_kl(student, teacher, temperature=temperature, reduction="none")
    expected = torch.tensor(naive_kl(teacher, student, temperature), dtype=torch.float64)
    torch.testing.assert_close(back, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("function", [kl_divergence, reverse_kl])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0, 1e4])
@pytest.mark.parametrize("step", [1e-7, 1e-4, 0.03, 1.0])
def test_float32_is_exact_at_any_scale_and_distance(function, scale, step):
    """Even for neighbours: the sum of p log(p/q) alone would lose every digit there."""
    student = randn(8, 7, scale=scale, dtype=torch.float32).clamp(-1e4, 1e4)
    teacher = student * (1 + step * randn(8, 7, scale=1, dtype=torch.float32))
    rows = function(student, teacher, reduction="none")
    pair = (student, teacher) if function is kl_divergence else (teacher, student)
    expected = torch.tensor(exact_kl(*pair), dtype=torch.float64)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.double(), expected, rtol=1e-5, atol=1e-37)
    assert (rows >= 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_half_precision_is_accumulated_in_float32(dtype, temperature, scale):
    student = randn(8, 7, scale=scale, dtype=dtype).clamp(-1e4, 1e4)
    teacher = (student.float() * (1 + 0.02 * randn(8, 7, scale=1, dtype=torch.float32))).to(dtype)
    rows = kl_divergence(student, teacher, temperature=temperature, reduction="none")
    assert rows.dtype == torch.float32
    expected = torch.tensor(exact_kl(student, teacher, temperature), dtype=torch.float64)
    torch.testing.assert_close(rows.double(), expected, rtol=1e-2, atol=1e-30)
    assert grad_of(lambda s: kl_divergence(s, teacher), student).dtype == dtype


@pytest.mark.parametrize("gap", [1e-12, 1e-9, 9e-4, 1.1e-3, 0.9, 1.1, 30.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_term_of_one_class_is_exact(gap, sign):
    """e^d - 1 - d, on both sides of every place where its computation changes."""
    d = mpmath.mpf(sign * gap)
    log_q = torch.tensor([[sign * gap]], dtype=torch.float64)
    term = kl_from_log_probs(log_q, torch.zeros(1, 1, dtype=torch.float64)).item()
    assert term == pytest.approx(float(mpmath.expm1(d) - d), rel=1e-12, abs=0)


def test_logits_are_centred_before_the_temperature_divides_them():
    student = torch.tensor([[8000.0, 7996.0]], dtype=torch.float16)
    teacher = torch.tensor([[8000.0, 8000.0]], dtype=torch.float16)
    loss = kl_divergence(student, teacher, temperature=100.0).item()
    assert loss == pytest.approx(exact_kl(student, teacher, 100.0)[0], rel=1e-5, abs=0)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_gradient_is_the_difference_of_the_distributions(scale):
    student, teacher = randn(3, 6, scale=scale), randn(3, 6, scale=scale)
    for temperature in (1.0, 4.0):
        q = torch.tensor([naive_softmax(row, temperature) for row in student.tolist()])
        p = torch.tensor([naive_softmax(row, temperature) for row in teacher.tolist()])
        gap = (q - p).double()
        options = {"temperature": temperature, "reduction": "sum"}
        scaled = grad_of(lambda s, o=options: kl_divergence(s, teacher, **o), student)
        torch.testing.assert_close(scaled, temperature * gap, rtol=1e-6, atol=1e-6)
        options["scale_by_temperature_squared"] = False
        plain = grad_of(lambda s, o=options: kl_divergence(s, teacher, **o), student)
        torch.testing.assert_close(plain, gap / temperature, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0, 1e4])
def test_reverse_gradient_is_the_closed_form_at_any_scale(scale):
    """q_k (log q_k - log p_k - KL), from float32 logits."""
    student, teacher = randn(8, 6, scale=scale).float(), randn(8, 6, scale=scale).float()
    log_q, log_p = student.double().log_softmax(-1), teacher.double().log_softmax(-1)
    gap = log_q - log_p
    expected = log_q.exp() * (gap - (log_q.exp() * gap).sum(-1, keepdim=True))
    slope = grad_of(lambda s: reverse_kl(s, teacher, reduction="sum"), student)
    torch.testing.assert_close(slope.double(), expected, rtol=1e-5, atol=1e-10 * scale)


@pytest.mark.parametrize(
    "function",
    [
        lambda s, t: kl_divergence(s, t, temperature=2.0),
        lambda s, t: reverse_kl(s, t, temperature=2.0),
        lambda s, t: kl_to_probs(s, t.softmax(-1), temperature=2.0),
        lambda s, t: soft_cross_entropy(s, t.softmax(-1)),
        lambda s, t: kl_from_log_probs(s.log_softmax(-1), t.log_softmax(-1)),
        lambda s, t: kl_from_log_probs(t.log_softmax(-1), s.log_softmax(-1)),
    ],
    ids=["kl", "reverse", "probs", "soft_ce", "primitive", "primitive_teacher"],
)
def test_first_and_second_gradients_are_the_numerical_ones(function):
    student, teacher = randn(3, 4, scale=1).requires_grad_(), randn(3, 4, scale=1)
    assert torch.autograd.gradcheck(lambda s: function(s, teacher), student)
    assert torch.autograd.gradgradcheck(lambda s: function(s, teacher), student)


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("function", [kl_divergence, reverse_kl])
def test_exactly_zero_with_zero_gradient_at_equality(function, dtype, scale):
    logits = randn(16, 33, scale=scale, dtype=dtype)
    for temperature in (1.0, 3.0):
        value = function(logits, logits.clone(), temperature=temperature, reduction="none")
        assert torch.equal(value, torch.zeros(16, dtype=value.dtype))
        gradient = grad_of(lambda s, T=temperature: function(s, logits, temperature=T), logits)
        assert torch.equal(gradient, torch.zeros_like(logits))


def test_primitive_is_exactly_zero_at_equality_even_if_not_normalised():
    log_probs = randn(16, 33, dtype=torch.float32).log_softmax(-1)
    assert kl_from_log_probs(log_probs, log_probs.clone()) == 0
    gradient = grad_of(lambda s: kl_from_log_probs(s, log_probs), log_probs)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_constant_added_to_the_logits_changes_nothing():
    student, teacher = randn(4, 6), randn(4, 6)
    shifted = kl_divergence(student + 1e3, teacher - 1e3)
    torch.testing.assert_close(shifted, kl_divergence(student, teacher), rtol=1e-10, atol=0)


@pytest.mark.parametrize("masked", [-INF, -1000.0])
def test_a_class_masked_on_both_sides_is_as_if_it_were_not_there(masked):
    student, teacher = randn(5, 6, dtype=torch.float32), randn(5, 6, dtype=torch.float32)
    for function in (kl_divergence, reverse_kl, lambda s, t: kl_to_probs(s, t.softmax(-1))):
        expected = function(student, teacher)
        slope = grad_of(lambda s, f=function: f(s, teacher), student)
        wide_s = torch.cat((student, torch.full((5, 1), masked)), 1)
        wide_t = torch.cat((teacher, torch.full((5, 1), masked)), 1)
        torch.testing.assert_close(function(wide_s, wide_t), expected, rtol=1e-6, atol=0)
        wide_slope = grad_of(lambda s, f=function, t=wide_t: f(s, t), wide_s)
        torch.testing.assert_close(wide_slope[:, :6], slope)
        assert torch.equal(wide_slope[:, 6], torch.zeros(5))


def test_a_class_masked_on_one_side():
    flat, sure = torch.zeros(1, 2), torch.tensor([[0.0, -INF]])
    assert kl_divergence(flat, sure).item() == pytest.approx(math.log(2))
    assert reverse_kl(sure, flat).item() == pytest.approx(math.log(2))
    assert kl_divergence(sure, flat) == INF
    assert reverse_kl(flat, sure) == INF
    for function, student, teacher in ((kl_divergence, flat, sure), (reverse_kl, sure, flat)):
        slope = grad_of(lambda s, f=function, t=teacher: f(s, t), student)
        assert torch.isfinite(slope).all()
    assert torch.equal(grad_of(lambda s: kl_divergence(s, sure), flat), torch.tensor([[-0.5, 0.5]]))


def test_opposite_extremes_are_finite_and_right():
    student = torch.tensor([[1e4, -1e4]], requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4]])
    for function in (kl_divergence, reverse_kl):
        loss = function(student, teacher)
        assert loss.item() == pytest.approx(2e4, rel=1e-6)
        assert torch.isfinite(torch.autograd.grad(loss, student)[0]).all()


@pytest.mark.parametrize("function", [kl_divergence, reverse_kl])
def test_one_class_no_samples_one_sample(function):
    one_class = randn(4, 1).requires_grad_()
    loss = function(one_class, randn(4, 1))
    loss.backward()
    assert loss == 0
    assert torch.equal(one_class.grad, torch.zeros(4, 1, dtype=torch.float64))
    empty = torch.zeros(0, 5, requires_grad=True)
    for reduction in ("batchmean", "elementwise", "sum"):
        loss = function(empty, torch.zeros(0, 5), reduction=reduction)
        loss.backward()
        assert loss == 0
    assert empty.grad.shape == (0, 5)
    single = randn(1, 5)
    assert function(single, randn(1, 5)) > 0


def test_a_large_vocabulary():
    student, teacher = torch.randn(2, 262_144), torch.randn(2, 262_144)
    student.requires_grad_()
    loss = kl_divergence(student, teacher, temperature=2.0)
    loss.backward()
    s, t = student.detach().double() / 2, teacher.double() / 2
    expected = 4 * (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum() / 2
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(student.grad.double(), s.softmax(1) - t.softmax(1))


def test_reductions():
    student, teacher = randn(4, 5), randn(4, 5)
    for function in (kl_divergence, reverse_kl, kl_from_log_probs, soft_cross_entropy):
        rows = function(student, teacher, reduction="none")
        assert rows.shape == (4,)
        torch.testing.assert_close(function(student, teacher), rows.mean())
        torch.testing.assert_close(function(student, teacher, reduction="sum"), rows.sum())
        elementwise = function(student, teacher, reduction="elementwise")
        torch.testing.assert_close(elementwise, rows.mean() / 5)


def test_samples_may_have_several_dimensions():
    student, teacher = randn(2, 3, 5), randn(2, 3, 5)
    rows = kl_divergence(student, teacher, reduction="none")
    assert rows.shape == (2, 3)
    flat = kl_divergence(student.flatten(0, 1), teacher.flatten(0, 1))
    torch.testing.assert_close(kl_divergence(student, teacher), flat)


def test_probabilities_of_a_black_box():
    student = randn(3, 4)
    probs = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.1, 0.2, 0.3, 0.4]]).double()
    log_q = [[math.log(q) for q in naive_softmax(row)] for row in student.tolist()]
    expected = [
        sum(p * (math.log(p) - b) for p, b in zip(row, logs, strict=True) if p > 0)
        for row, logs in zip(probs.tolist(), log_q, strict=True)
    ]
    rows = kl_to_probs(student, probs, reduction="none")
    torch.testing.assert_close(rows, torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=0)
    rounded = kl_to_probs(student, probs * 0.999, reduction="none")
    torch.testing.assert_close(rounded, rows)
    assert torch.isfinite(grad_of(lambda s: kl_to_probs(s, probs), student)).all()


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_probabilities_of_logits_give_what_the_logits_give(temperature):
    student, teacher = randn(3, 4), randn(3, 4)
    from_probs = kl_to_probs(student, teacher.softmax(-1), temperature=temperature)
    expected = kl_divergence(student, teacher, temperature=temperature)
    torch.testing.assert_close(from_probs, expected, rtol=1e-10, atol=0)


def test_soft_cross_entropy_is_kl_plus_entropy_and_skips_empty_rows():
    student, probs = randn(3, 4), randn(3, 4).softmax(-1)
    entropy = -(probs * probs.log()).sum(-1)
    rows = soft_cross_entropy(student, probs, reduction="none")
    torch.testing.assert_close(rows, kl_to_probs(student, probs, reduction="none") + entropy)
    probs[1] = 0
    assert soft_cross_entropy(student, probs, reduction="none")[1] == 0
    assert not grad_of(lambda s: soft_cross_entropy(s, probs), student)[1].any()
    masked = torch.tensor([[0.0, 0.0, -INF]])
    value = soft_cross_entropy(masked, torch.tensor([[0.5, 0.5, 0.0]]))
    assert value.item() == pytest.approx(math.log(2))


def test_the_teacher_receives_no_gradient_but_both_sides_of_the_primitive_do():
    student, teacher = randn(3, 4).requires_grad_(), randn(3, 4).requires_grad_()
    for function in (kl_divergence, reverse_kl, soft_cross_entropy):
        function(student, teacher).backward()
        assert teacher.grad is None
    kl_to_probs(student, teacher.softmax(-1)).backward()
    assert teacher.grad is None
    kl_from_log_probs(student.log_softmax(-1), teacher.log_softmax(-1)).backward()
    assert teacher.grad.abs().sum() > 0


def test_swapping_the_roles_trains_the_other_side():
    student, teacher = randn(3, 4), randn(3, 4)
    swapped = reverse_kl(teacher, student)
    torch.testing.assert_close(swapped, kl_divergence(student, teacher))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # inside torch's own jvp
def test_torch_func_transforms_work():
    student, teacher = randn(3, 4), randn(3, 4)
    one = torch.func.grad(lambda s, t: kl_divergence(s, t, temperature=2.0, reduction="sum"))
    per_sample = torch.func.vmap(one)(student, teacher)
    whole = grad_of(lambda s: kl_divergence(s, teacher, temperature=2.0, reduction="sum"), student)
    torch.testing.assert_close(per_sample, whole)
    _, slope = torch.func.jvp(lambda s: kl_divergence(s, teacher), (student,), (student,))
    expected = (grad_of(lambda s: kl_divergence(s, teacher), student) * student).sum()
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("function", [kl_divergence, reverse_kl, kl_to_probs, kl_from_log_probs])
def test_shapes_are_never_broadcast(function):
    with pytest.raises(ValueError, match=r"student has shape \(3, 4\), teacher has shape \(3, 1\)"):
        function(randn(3, 4), randn(3, 1).exp())


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"temperature is 0; expected a positive number"):
        kl_divergence(randn(1, 2), randn(1, 2), temperature=0)
    with pytest.raises(ValueError, match="reduction is 'mean'; expected one of batchmean"):
        kl_divergence(randn(1, 2), randn(1, 2), reduction="mean")


@pytest.mark.parametrize("loss", [kl_divergence, reverse_kl, jensen_shannon])
def test_a_class_that_both_mask_has_no_slope_and_hides_no_other(loss, monkeypatch):
    student, teacher = randn(4, 6), randn(4, 6)
    student[:, 2] = teacher[:, 2] = -math.inf
    rest = [0, 1, 3, 4, 5]
    for form in ("compiled", "plain"):
        monkeypatch.setenv("LIMBECK_KERNELS", form)
        masked = grad_of(lambda s: loss(s, teacher), student)
        alone = grad_of(lambda s: loss(s, teacher[:, rest]), student[:, rest])
        assert not masked[:, 2].any()
        torch.testing.assert_close(masked[:, rest], alone)
        assert float(loss(student, teacher)) == pytest.approx(
            float(loss(student[:, rest], teacher[:, rest])), rel=1e-6
        )


@pytest.mark.parametrize("size", [1e36, 3e38])
def test_a_small_loss_beyond_float32_is_infinite(size):
    student = torch.tensor([[size, 0.0, -size]] * 3, requires_grad=True)
    value = kl_divergence(student, -student.detach(), temperature=1.0)
    assert value.item() == (math.inf if size > 1e38 else pytest.approx(2 * size, rel=1e-6))
    value.backward()
    assert bool(torch.isfinite(student.grad).all())
