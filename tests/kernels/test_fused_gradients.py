"""What autograd, and what looks into autograd, sees of the fused forms."""

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from limbeck import functional as lf
from limbeck.kernels import choice, dense

FORMS = [lf.kl_divergence, lf.reverse_kl, lf.jensen_shannon]
each_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(autouse=True)
def fused(monkeypatch):
    monkeypatch.setattr(choice, "FUSED_FROM", 1)
    monkeypatch.setattr(choice, "FEWEST_CLASSES", 1)
    monkeypatch.setattr(dense, "CACHED", 20)
    monkeypatch.delenv(choice.VARIABLE, raising=False)


def randn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(dtype)


@each_form
def test_first_and_second_gradients_are_the_numerical_ones(form):
    student, teacher = randn(3, 4).requires_grad_(), randn(3, 4)
    for reduction in ("batchmean", "none"):

        def loss(s, r=reduction):
            return form(s, teacher, temperature=2.0, reduction=r)

        assert torch.autograd.gradcheck(loss, student)
        assert torch.autograd.gradgradcheck(loss, student)


@each_form
def test_a_weight_outside_scales_the_gradient(form):
    student, teacher = randn(5, 6).requires_grad_(), randn(5, 6)
    (plain,) = torch.autograd.grad(form(student, teacher), student)
    (scaled,) = torch.autograd.grad(0.3 * form(student, teacher), student)
    torch.testing.assert_close(scaled, 0.3 * plain)
    weights = torch.rand(5).double()
    (weighted,) = torch.autograd.grad(
        (weights * form(student, teacher, reduction="none")).sum(), student
    )
    torch.testing.assert_close(weighted, 5 * weights[:, None] * plain)


@each_form
def test_two_terms_and_two_steps_add_up(form):
    student, teacher = randn(5, 6).requires_grad_(), randn(5, 6)
    (one,) = torch.autograd.grad(form(student, teacher), student)
    (form(student, teacher) + 2 * form(student, teacher)).backward()
    form(student, teacher).backward()
    torch.testing.assert_close(student.grad, 4 * one)


@each_form
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_backward_twice_gives_the_same_if_the_graph_is_kept(form, weight):
    student, teacher = randn(5, 6).requires_grad_(), randn(5, 6)
    loss = weight * form(student, teacher)
    (first,) = torch.autograd.grad(loss, student, retain_graph=True)
    kept = first.clone()
    first.mul_(7)  # what was handed out is the receiver's own
    (second,) = torch.autograd.grad(loss, student, retain_graph=True)
    assert torch.equal(second, kept)
    (third,) = torch.autograd.grad(loss, student)
    assert torch.equal(third, kept)


@each_form
def test_backward_twice_without_it_is_torchs_own_error(form):
    student, teacher = randn(5, 6).requires_grad_(), randn(5, 6)
    loss = form(student, teacher)
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


@each_form
def test_nothing_is_kept_where_no_gradient_is_asked_for(form):
    student, teacher = randn(5, 6).requires_grad_(), randn(5, 6)
    with torch.no_grad():
        silent = form(student, teacher)
    assert silent.grad_fn is None
    torch.testing.assert_close(silent, form(student, teacher).detach(), rtol=0, atol=0)
    assert form(student.detach(), teacher).grad_fn is None


@each_form
def test_the_teacher_receives_no_gradient_and_nothing_is_written_to(form):
    student, teacher = randn(5, 6).requires_grad_(), randn(5, 6).requires_grad_()
    before = student.detach().clone(), teacher.detach().clone()
    versions = student._version, teacher._version
    (0.5 * form(student, teacher)).backward()
    assert teacher.grad is None
    assert torch.equal(student, before[0])
    assert torch.equal(teacher, before[1])
    assert (student._version, teacher._version) == versions


def test_logits_may_be_overwritten_between_value_and_gradient():
    """The gradient is there already: nothing is read again."""
    leaf, teacher = randn(5, 6).requires_grad_(), randn(5, 6)
    (expected,) = torch.autograd.grad(lf.kl_divergence(leaf, teacher), leaf)
    logits = leaf * 1
    loss = lf.kl_divergence(logits, teacher)
    logits.detach().zero_()
    teacher.zero_()
    loss.backward()
    torch.testing.assert_close(leaf.grad, expected)


@each_form
def test_logits_that_cannot_be_seen_as_rows_are_not_copied(form):
    """A sequence without its last position, or padded classes cut off."""
    wide = randn(3, 5, 8)
    student = wide[:, :-1, :-1].detach().requires_grad_()
    teacher = randn(3, 4, 7)
    found = torch.autograd.grad(form(student, teacher), student)[0]
    dense_student = student.detach().contiguous().requires_grad_()
    expected = torch.autograd.grad(form(dense_student, teacher), dense_student)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@each_form
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # inside torch's own jvp
def test_function_transforms_take_the_plain_form(form):
    student, teacher = randn(3, 4), randn(3, 4)
    one = torch.func.grad(lambda s, t: form(s, t, temperature=2.0, reduction="sum"))
    per_sample = torch.func.vmap(one)(student, teacher)
    leaf = student.clone().requires_grad_()
    form(leaf, teacher, temperature=2.0, reduction="sum").backward()
    torch.testing.assert_close(per_sample, leaf.grad)
    _, slope = torch.func.jvp(lambda s: form(s, teacher), (student,), (student,))
    with forward_ad.dual_level():
        value = form(forward_ad.make_dual(student, student), teacher)
        torch.testing.assert_close(forward_ad.unpack_dual(value).tangent, slope)


@each_form
def test_a_users_own_compilation_sees_the_plain_form(form):
    student, teacher = randn(3, 4).requires_grad_(), randn(3, 4)
    expected = torch.autograd.grad(form(student, teacher), student)[0]
    compiled = torch.compile(lambda s: form(s, teacher), backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(student), student)[0]
    torch.testing.assert_close(found, expected)


@each_form
def test_autocast_changes_nothing(form):
    student, teacher = randn(5, 6, dtype=torch.float32).requires_grad_(), randn(5, 6)
    expected = form(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(form(student, teacher), expected)


def test_checkpointing_runs_it_again():
    leaf, teacher = randn(5, 6).requires_grad_(), randn(5, 6)
    (expected,) = torch.autograd.grad(lf.kl_divergence(leaf, teacher), leaf)
    loss = torch.utils.checkpoint.checkpoint(
        lambda s: lf.kl_divergence(s * 1, teacher), leaf, use_reentrant=False
    )
    (found,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(found, expected)
