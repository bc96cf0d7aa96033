"""The fused divergences on a GPU: compiled by Triton or in blocks, against float64 on the CPU."""

import pytest
import torch
from torch import Tensor

from limbeck import functional as lf
from limbeck.kernels import choice

pytestmark = pytest.mark.filterwarnings("ignore")  # what torch's own compiler says
SHAPE = (96, 50_001)
KEPT = 5


def sparse(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    log_p = (teacher.cpu().double() / temperature).log_softmax(-1)
    found = log_p.topk(KEPT, dim=-1)  # of classes alike, each device takes others
    rest = log_p.scatter(-1, found.indices, -torch.inf).logsumexp(-1)
    kept = (value.to(student.device) for value in (found.indices, found.values, rest))
    return lf.kl_sparse(student, *kept, temperature=temperature)


LOSSES = {
    "kl": lf.kl_divergence,
    "reverse": lf.reverse_kl,
    "jsd": lf.jensen_shannon,
    "sparse": sparse,
}


def both(loss, student: Tensor, teacher: Tensor, **options) -> tuple[Tensor, Tensor]:
    student = student.detach().clone().requires_grad_()
    value = loss(student, teacher, **options)
    return value.detach().cpu().double(), torch.autograd.grad(value, student)[0].cpu().double()


@pytest.mark.parametrize("form", ["compiled", "chunked"])
@pytest.mark.parametrize("name", LOSSES)
def test_the_fused_form_is_exact(name, form, monkeypatch):
    loss = LOSSES[name]
    for dtype, near in ((torch.float64, 1e-11), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        student, teacher = ((3 * torch.randn(SHAPE)).to(dtype) for _ in range(2))
        for temperature in (1.0, 4.0):
            monkeypatch.setenv(choice.VARIABLE, form)
            taken = choice.form_for(student.cuda().requires_grad_())
            assert taken == form
            value, slope = both(loss, student.cuda(), teacher.cuda(), temperature=temperature)
            monkeypatch.setenv(choice.VARIABLE, "plain")
            exact, steep = both(loss, student.double(), teacher.double(), temperature=temperature)
            torch.testing.assert_close(value, exact, rtol=min(near, 1e-5), atol=0)
            reach = near * float(steep.abs().max())
            torch.testing.assert_close(slope, steep, rtol=near, atol=reach)


@pytest.mark.parametrize("form", ["compiled", "chunked"])
@pytest.mark.parametrize("name", ["kl", "reverse", "jsd"])
def test_extremes_masks_and_equality(name, form, monkeypatch):
    loss = LOSSES[name]
    monkeypatch.setattr(choice, "FUSED_FROM", 1)
    monkeypatch.setattr(choice, "COMPILED_FROM", 1)
    monkeypatch.setenv(choice.VARIABLE, form)
    student, teacher = 1e4 * torch.randn(6, 100), 1e4 * torch.randn(6, 100)
    student[:, 7] = teacher[:, 7] = -torch.inf
    value, slope = both(loss, student.cuda(), teacher.cuda())
    monkeypatch.setenv(choice.VARIABLE, "plain")
    exact, steep = both(loss, student, teacher)
    torch.testing.assert_close(value, exact, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(slope, steep, rtol=1e-5, atol=1e-5)
    monkeypatch.setenv(choice.VARIABLE, form)
    equal = 3 * torch.randn(6, 100)
    value, slope = both(loss, equal.cuda(), equal.cuda())
    assert value == 0
    assert not slope.any()


# Beside the gradient: nothing, two tensors, or what a block of 2²⁴ logits needs.
MOST = {"kl": 0.1, "sparse": 0.1, "reverse": 2.1, "jsd": 2.1}


@pytest.mark.parametrize("form", ["compiled", "chunked"])
@pytest.mark.parametrize("name", LOSSES)
def test_little_more_than_the_gradient_is_made(name, form, monkeypatch):
    monkeypatch.setenv(choice.VARIABLE, form)
    student = torch.randn(2048, 50_000, device="cuda").requires_grad_()
    teacher = torch.randn_like(student)
    if name == "sparse":
        kept = torch.arange(KEPT, device="cuda").expand(2048, KEPT)
        log_p = torch.zeros(2048, KEPT, device="cuda").log_softmax(-1)

        def loss() -> Tensor:
            return lf.kl_sparse(student, kept, log_p)
    else:

        def loss() -> Tensor:
            return LOSSES[name](student, teacher)

    loss().backward()  # compiles
    student.grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    (0.5 * loss()).backward()
    size = student.untyped_storage().nbytes()
    beside = MOST[name] if form == "compiled" else 15 * 2**24 / student.numel()
    assert torch.cuda.max_memory_allocated() - before <= (1 + beside) * size


def test_the_same_bits_each_time():
    student, teacher = (torch.randn(512, 50_000, device="cuda") for _ in range(2))
    first, again = (both(lf.kl_divergence, student, teacher) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
