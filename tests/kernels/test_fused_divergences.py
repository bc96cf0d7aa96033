"""The fused divergences against the plain ones: values, gradients, precision, masks, limits."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from limbeck import functional as lf
from limbeck.kernels import choice, dense

INF = math.inf
FORMS = {
    "kl": lambda s, t, **o: lf.kl_divergence(s, t, **o),
    "reverse": lambda s, t, **o: lf.reverse_kl(s, t, **o),
    "jsd": lambda s, t, **o: lf.jensen_shannon(s, t, **o),
    "jsd_skew": lambda s, t, **o: lf.jensen_shannon(s, t, beta=0.1, **o),
}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
few = settings(derandomize=True, deadline=None, max_examples=25, database=None)


@pytest.fixture(autouse=True)
def fused(monkeypatch):
    """Every size takes the fused form, in blocks of a few rows."""
    monkeypatch.setattr(choice, "FUSED_FROM", 1)
    monkeypatch.setattr(choice, "FEWEST_CLASSES", 1)
    monkeypatch.setattr(dense, "CACHED", 20)
    monkeypatch.delenv(choice.VARIABLE, raising=False)


def plainly(function, *arguments, **options) -> Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(choice.VARIABLE, "plain")
        return function(*arguments, **options)


def randn(*shape: int, scale: float = 3.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.randn(*shape, dtype=torch.float64) * scale).to(dtype)


def both(form, student: Tensor, teacher: Tensor, **options) -> tuple[Tensor, Tensor]:
    """The value and the gradient of its sum."""
    student = student.detach().clone().requires_grad_()
    value = form(student, teacher, **options)
    return value.detach(), torch.autograd.grad(value.sum(), student)[0]


@pytest.fixture
def fused_only(monkeypatch):
    """The plain form is not called: what is tested is what is meant."""

    def fail(*_: object) -> Tensor:
        raise AssertionError("the plain form was called")

    monkeypatch.setattr("limbeck.functional.divergence._tempered", fail)
    monkeypatch.setattr("limbeck.functional.mixture._tempered", fail)


@each_form
def test_the_fused_form_is_taken(form, fused_only):
    both(form, randn(7, 6), randn(7, 6))


@each_form
@pytest.mark.parametrize("reduction", ["batchmean", "elementwise", "sum", "none"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
def test_in_double_precision_both_forms_are_equal(form, reduction, temperature, scale):
    student, teacher = randn(7, 6, scale=scale), randn(7, 6, scale=scale)
    options = {"reduction": reduction, "temperature": temperature}
    value, slope = both(form, student, teacher, **options)
    plain_value, plain_slope = plainly(both, form, student, teacher, **options)
    assert value.shape == plain_value.shape
    # what the exponent of a large logit is rounded to, it has in relative terms
    torch.testing.assert_close(value, plain_value, rtol=1e-12, atol=1e-13 * min(scale, 1))
    largest = float(plain_slope.abs().max())
    # far apart, a mixture's gradient is a difference of numbers near 1 (as it is in both forms)
    near = 1e-12 * largest if scale <= 1 else 1e-13 * temperature * max(1.0, largest)
    torch.testing.assert_close(slope, plain_slope, rtol=1e-11, atol=near)


def softmax(logits: list[float], temperature: float) -> list[float]:
    weights = [math.exp((z - max(logits)) / temperature) for z in logits]
    return [weight / math.fsum(weights) for weight in weights]


def kl(first: list[float], second: list[float]) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(first, second, strict=True))


def naive(name: str, student: Tensor, teacher: Tensor, temperature: float) -> list[float]:
    """The equations with loops and Python's floats, one value per row."""
    values, beta = [], 0.1 if name == "jsd_skew" else 0.5
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = softmax(s, temperature), softmax(t, temperature)
        m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
        mixed = beta * kl(p, m) + (1 - beta) * kl(q, m)
        values.append({"kl": kl(p, q), "reverse": kl(q, p)}.get(name, mixed) * temperature**2)
    return values


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_value_is_the_naive_one(name, dtype, error):
    student, teacher = randn(9, 8, dtype=dtype), randn(9, 8, dtype=dtype)
    rows = FORMS[name](student, teacher, temperature=2.0, reduction="none")
    expected = torch.tensor(naive(name, student, teacher, 2.0), dtype=torch.float64)
    torch.testing.assert_close(rows.double(), expected, rtol=error, atol=0)


@st.composite
def pairs(draw) -> tuple[Tensor, Tensor]:
    """Float32 logits of any small shape, from alike to unrelated, at any scale up to 1e4."""
    batch, classes = draw(st.integers(1, 5)), draw(st.integers(1, 40))
    scale = draw(st.sampled_from([1e-3, 1.0, 30.0, 1e4]))
    distance = draw(st.sampled_from([0.0, 1e-6, 1e-3, 1e-1, 1.0]))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    student, noise = (torch.randn(batch, classes, generator=rng) for _ in range(2))
    teacher = student * (1 - distance) + noise * distance
    return (student * scale).clamp(-1e4, 1e4), (teacher * scale).clamp(-1e4, 1e4)


@each_form
@given(pair=pairs(), temperature=st.sampled_from([1.0, 3.0]))
@settings(few)
def test_single_precision_keeps_its_stated_error(form, pair, temperature):
    """1e-5 of the value; nearer than that, what float32 logits leave of their differences."""
    student, teacher = pair
    options = {"temperature": temperature, "reduction": "none"}
    value, slope = both(form, student, teacher, **options)
    exact, exact_slope = plainly(both, form, student.double(), teacher.double(), **options)
    assert value.dtype == slope.dtype == torch.float32
    assert (value >= 0).all()
    error = (value.double() - exact).abs()
    assert (error <= 1e-5 * exact + 2e-6 * temperature * exact.sqrt() + 1e-12).all()
    reach = temperature * max(1.0, float(exact_slope.abs().max()))
    torch.testing.assert_close(slope.double(), exact_slope, rtol=1e-5, atol=2e-6 * reach)


@each_form
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_exactly_zero_with_zero_gradient_at_equality(form, dtype, scale):
    logits = randn(16, 33, scale=scale, dtype=dtype).clamp(-6e4, 6e4)
    for temperature in (1.0, 3.0):
        value, slope = both(form, logits, logits.clone(), temperature=temperature, reduction="none")
        assert torch.equal(value, torch.zeros_like(value))
        assert torch.equal(slope, torch.zeros_like(logits))


@each_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_half_precision_is_accumulated_in_float32(form, dtype, scale):
    student, teacher = (randn(8, 7, scale=scale, dtype=dtype).clamp(-1e4, 1e4) for _ in range(2))
    value, slope = both(form, student, teacher, temperature=2.0)
    exact, exact_slope = plainly(both, form, student.double(), teacher.double(), temperature=2.0)
    assert value.dtype == torch.float32
    assert slope.dtype == dtype
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
    reach = float(exact_slope.abs().max())
    torch.testing.assert_close(slope.double(), exact_slope, rtol=1e-2, atol=1e-3 * reach + 1e-6)


def test_a_loss_scaler_meets_the_gradient_before_float16_does():
    """Gradients below float16's smallest number are kept until they have been scaled up."""
    student, teacher = randn(4, 50, dtype=torch.float16), randn(4, 50, dtype=torch.float16)
    student.requires_grad_()
    (lf.kl_divergence(student, teacher) * 1e-9 * 2.0**30).backward()
    ours, student.grad = student.grad, None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(choice.VARIABLE, "plain")
        (lf.kl_divergence(student, teacher) * 1e-9 * 2.0**30).backward()
    torch.testing.assert_close(ours, student.grad, rtol=2e-3, atol=1e-6)


@each_form
@pytest.mark.parametrize("masked", [-INF, -1000.0])
def test_a_class_masked_on_both_sides_is_as_if_it_were_not_there(form, masked):
    student, teacher = randn(5, 6, dtype=torch.float32), randn(5, 6, dtype=torch.float32)
    value, slope = both(form, student, teacher)
    wide = [torch.cat((side, torch.full((5, 1), masked)), 1) for side in (student, teacher)]
    wide_value, wide_slope = both(form, *wide)
    torch.testing.assert_close(wide_value, value, rtol=1e-6, atol=0)
    torch.testing.assert_close(wide_slope[:, :6], slope)
    assert torch.equal(wide_slope[:, 6], torch.zeros(5))


@each_form
def test_masked_on_one_side_is_what_the_plain_form_says(form):
    flat, sure = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, -INF]])
    for student, teacher in ((flat, sure), (sure, flat)):
        value, slope = both(form, student, teacher)
        plain_value, plain_slope = plainly(both, form, student, teacher)
        torch.testing.assert_close(value, plain_value)
        if torch.isfinite(value):
            torch.testing.assert_close(slope, plain_slope)
    assert lf.kl_divergence(sure, flat) == INF
    assert lf.reverse_kl(flat, sure) == INF


@each_form
def test_opposite_extremes_are_finite_and_right(form):
    student, teacher = torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]])
    value, slope = both(form, student, teacher)
    torch.testing.assert_close(value, plainly(form, student, teacher))
    assert torch.isfinite(slope).all()


def test_a_zero_probability_of_a_black_box_is_allowed():
    student, probs = (
        randn(3, 4),
        torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.1, 0.2, 0.3, 0.4]]),
    )
    value, slope = both(lf.kl_to_probs, student, probs)
    plain_value, plain_slope = plainly(both, lf.kl_to_probs, student, probs)
    torch.testing.assert_close(value, plain_value)
    torch.testing.assert_close(slope, plain_slope)


@each_form
def test_a_large_temperature_leaves_the_squared_distance(form):
    """T² KL tends to half the variance of the gap between centred logits over the classes."""
    student, teacher = randn(4, 9), randn(4, 9)
    gap = (student - teacher) - (student - teacher).mean(-1, keepdim=True)
    expected = gap.square().mean(-1) / 2
    share = {"jsd": 0.25, "jsd_skew": 0.09}
    name = next(name for name, each in FORMS.items() if each is form)
    rows = form(student, teacher, temperature=1e4, reduction="none")
    torch.testing.assert_close(rows, share.get(name, 1.0) * expected, rtol=3e-3, atol=0)


@each_form
def test_one_class_no_samples_one_sample_one_row(form):
    value, slope = both(form, randn(4, 1), randn(4, 1))
    assert value == 0
    assert torch.equal(slope, torch.zeros(4, 1, dtype=torch.float64))
    for shape in ((1, 5), (5,), (2, 3, 5)):
        student, teacher = randn(*shape), randn(*shape)
        found = both(form, student, teacher, reduction="none")
        expected = plainly(both, form, student, teacher, reduction="none")
        torch.testing.assert_close(found, expected)
    empty = torch.zeros(0, 5, requires_grad=True)
    form(empty, torch.zeros(0, 5)).backward()
    assert empty.grad.shape == (0, 5)


def test_a_temperature_for_each_sample():
    student, teacher = randn(3, 4, 9), randn(3, 4, 9)
    tau = torch.rand(3, 4, dtype=torch.float64) * 4 + 0.5
    for reduction in ("batchmean", "elementwise", "sum", "none"):
        for squared in (True, False):
            options = {"reduction": reduction, "scale_by_temperature_squared": squared}

            def form(s, t, o=options):
                return lf.kd_per_sample(s, t, tau, **o)

            found = both(form, student, teacher)
            torch.testing.assert_close(found, plainly(both, form, student, teacher))


def test_mixed_precisions_of_both_sides():
    student, teacher = randn(5, 9, dtype=torch.bfloat16), randn(5, 9, dtype=torch.float32)
    value, slope = both(lf.kl_divergence, student, teacher)
    exact, exact_slope = plainly(both, lf.kl_divergence, student.double(), teacher.double())
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=0)
    torch.testing.assert_close(slope.double(), exact_slope, rtol=1e-2, atol=1e-4)
