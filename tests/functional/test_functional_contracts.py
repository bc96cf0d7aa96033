"""The promises that every loss between a student and a teacher keeps."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from limbeck import functional as lf

LOGIT_LOSSES = {
    "kl_divergence": lambda s, t: lf.kl_divergence(s, t, temperature=2.0),
    "reverse_kl": lf.reverse_kl,
    "kd": lf.kd,
    "kd_elementwise": lambda s, t: lf.kd(s, t, reduction="elementwise"),
    "kl_to_probs": lambda s, t: lf.kl_to_probs(s, t.double().softmax(-1)),
    "kl_from_log_probs": lambda s, t: lf.kl_from_log_probs(
        s.double().log_softmax(-1), t.double().log_softmax(-1)
    ),
    "dml": lambda s, t: lf.dml(s, [t, t.flip(0).flip(0)], average=True),
    "kd_multilabel": lambda s, t: lf.kd_multilabel(s, t, temperature=2.0),
    "dkd": lambda s, t: lf.dkd(s, t, t.argmax(-1), temperature=2.0),
    "cakd": lambda s, t: lf.cakd(s, t, strong=2, beta=0.5, gamma=2.0),
    "cakd_by_mass": lambda s, t: lf.cakd(s, t, strong=1, by_mass=True, temperature=1.0),
    "kd_standardised": lf.kd_standardised,
    "normkd": lf.normkd,
    "jensen_shannon": lambda s, t: lf.jensen_shannon(s, t, beta=0.3),
    "kd_at_temperature": lambda s, t: lf.kd_at_temperature(s, t, temperature=torch.tensor([3.0])),
    "multi_teacher_kd": lambda s, t: lf.multi_teacher_kd(
        s, torch.stack([t, t.clone()]), torch.full((2, len(s)), 0.5)
    ),
    "superfeature_kd": lambda s, t: lf.superfeature_kd(s.unsqueeze(1), t.unsqueeze(1)),
    "ttm_plain": lambda s, t: lf.ttm(s, t, gamma=1.0),
    "kd_per_sample": lambda s, t: lf.kd_per_sample(s, t, 1 + t.double().softmax(-1).amax(-1)),
}
VECTOR_LOSSES = {
    "kd_regression": lf.kd_regression,
    "hint": lf.hint,
    "hint_half_sum": lambda s, t: lf.hint(s, t, normaliser="half_sum"),
    "explanation_loss": lf.explanation_loss,
    "direction_distance": lambda s, t: lf.direction_distance(s, t, reduction="batchmean"),
}
LOSSES = LOGIT_LOSSES | VECTOR_LOSSES
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
few = settings(derandomize=True, deadline=None, max_examples=12, database=None)


@st.composite
def pairs(draw, even: bool = False) -> tuple[Tensor, Tensor]:
    """Student and teacher of any small shape, from alike to unrelated, at any scale up to 1e4."""
    batch = draw(st.integers(1, 4)) * (2 if even else 1)
    classes = draw(st.integers(2, 9))
    scale = draw(st.sampled_from([1e-3, 1.0, 30.0, 1e4]))
    distance = draw(st.sampled_from([0.0, 1e-6, 1e-2, 1.0]))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    student, noise = (torch.randn(batch, classes, generator=rng) for _ in range(2))
    teacher = student * (1 - distance) + noise * distance
    return (student * scale).clamp(-1e4, 1e4), (teacher * scale).clamp(-1e4, 1e4)


def slope(loss, student: Tensor, teacher: Tensor) -> Tensor:
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, teacher), student)[0]


@every_loss
@few
@given(pairs())
def test_never_negative_and_zero_at_equality(loss, pair):
    student, teacher = pair
    assert loss(student, teacher) >= 0
    assert torch.isfinite(slope(loss, student, teacher)).all()
    at_equality = loss(student, student.clone())
    assert at_equality.abs() <= 1e-15
    assert slope(loss, student, student.clone()).abs().max() <= 1e-15


@every_loss
@few
@given(pairs())
def test_single_precision_gives_the_double_precision_value(loss, pair):
    student, teacher = pair
    wide = loss(student.double(), teacher.double())
    torch.testing.assert_close(loss(student, teacher).double(), wide, rtol=1e-5, atol=1e-13)


@every_loss
@few
@given(pairs())
def test_bfloat16_is_accumulated_in_more(loss, pair):
    student, teacher = (x.bfloat16() for x in pair)
    wide = loss(student.double(), teacher.double())
    torch.testing.assert_close(loss(student, teacher).double(), wide, rtol=1e-2, atol=1e-6)


@every_loss
@few
@given(pairs(), st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(loss, pair, random):
    student, teacher = (x.double() for x in pair)
    order = list(range(len(student)))
    random.shuffle(order)
    torch.testing.assert_close(loss(student[order], teacher[order]), loss(student, teacher))


@every_loss
@few
@given(pairs(even=True))
def test_two_equal_halves_average_to_the_whole(loss, pair):
    student, teacher = (x.double() for x in pair)
    halves = zip(student.chunk(2), teacher.chunk(2), strict=True)
    mean = torch.stack([loss(s, t) for s, t in halves]).mean()
    torch.testing.assert_close(mean, loss(student, teacher))


@every_loss
def test_gradient_is_the_numerical_one(loss):
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student)


@every_loss
def test_inputs_are_not_written_to_and_the_teacher_gets_no_gradient(loss):
    student = torch.randn(3, 4).requires_grad_()
    teacher = torch.randn(3, 4)
    if loss is not LOSSES["kl_from_log_probs"]:  # the primitive is differentiable in both
        teacher.requires_grad_()
    before = student.detach().clone(), teacher.detach().clone()
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert torch.equal(student, before[0])
    assert torch.equal(teacher, before[1])


@every_loss
def test_an_empty_batch_costs_nothing_and_has_a_graph(loss):
    student = torch.zeros(0, 4, requires_grad=True)
    value = loss(student, torch.zeros(0, 4))
    value.backward()
    assert value == 0
    assert student.grad.shape == (0, 4)


@every_loss
def test_shapes_that_differ_are_refused_in_one_line(loss):
    with pytest.raises(ValueError, match="expected the same shape") as refused:
        loss(torch.zeros(3, 4), torch.zeros(3, 5))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("loss", LOGIT_LOSSES.values(), ids=LOGIT_LOSSES.keys())
def test_a_very_large_number_of_classes(loss):
    student = torch.randn(1, 262_144, requires_grad=True)
    value = loss(student, torch.randn(1, 262_144))
    value.backward()
    assert value > 0
    assert torch.isfinite(student.grad).all()
