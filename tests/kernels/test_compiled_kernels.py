"""The compiled forms, as a user of large logits meets them. A compiler's seconds: slow."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from limbeck import functional as lf
from limbeck.kernels import choice, dense

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not choice.has_compiler(), reason="no C++ compiler on this machine"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script"),  # inside torch's own compiler
]
KEPT = 5


def sparse(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    log_p = (teacher.double() / temperature).log_softmax(-1)
    found = log_p.topk(KEPT, dim=-1)
    rest = log_p.scatter(-1, found.indices, -torch.inf).logsumexp(-1)
    return lf.kl_sparse(student, found.indices, found.values, rest, temperature=temperature)


LOSSES = {
    "kl": lf.kl_divergence,
    "reverse": lf.reverse_kl,
    "jsd": lf.jensen_shannon,
    "sparse": sparse,
}


@pytest.fixture(autouse=True)
def anything_is_compiled(monkeypatch):
    monkeypatch.setattr(choice, "FUSED_FROM", 1)
    monkeypatch.setattr(choice, "COMPILED_FROM", 1)
    monkeypatch.delenv(choice.VARIABLE, raising=False)


def both(loss, student: Tensor, teacher: Tensor, **options) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    value = loss(student, teacher, **options)
    return value.detach(), torch.autograd.grad(value, student)[0]


@pytest.mark.parametrize("name", LOSSES)
def test_compiled_equals_plain(monkeypatch, name):
    """Any number of rows and classes, each precision, one compilation for each precision."""
    loss = LOSSES[name]
    for dtype, near in ((torch.float64, 1e-11), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        for shape in ((64, 1001), (3, 7, 128)):
            student, teacher = (3 * torch.randn(shape).to(dtype) for _ in range(2))
            for temperature in (1.0, 3.0):
                options = {"temperature": temperature}
                assert choice.form_for(student.requires_grad_()) == "compiled"
                value, slope = both(loss, student.detach(), teacher, **options)
                with monkeypatch.context() as patch:
                    patch.setenv(choice.VARIABLE, "plain")
                    wide = student.detach().double(), teacher.double()
                    exact, exact_slope = both(loss, *wide, **options)
                torch.testing.assert_close(value.double(), exact, rtol=min(near, 1e-5), atol=0)
                reach = near * float(exact_slope.abs().max())
                torch.testing.assert_close(slope.double(), exact_slope, rtol=near, atol=reach)
        equal = 3 * torch.randn(9, 333).to(dtype)
        value, slope = both(loss, equal, equal.clone())
        if name != "sparse":  # its teacher went through another precision
            assert value == 0
            assert not slope.any()


def test_masks_and_extremes_compiled():
    student, teacher = 1e4 * torch.randn(6, 100), 1e4 * torch.randn(6, 100)
    student[:, 7] = teacher[:, 7] = -torch.inf
    for loss in (lf.kl_divergence, lf.reverse_kl, lf.jensen_shannon):
        value, slope = both(loss, student, teacher)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(choice.VARIABLE, "plain")
            exact, exact_slope = both(loss, student, teacher)
        torch.testing.assert_close(value, exact, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(slope, exact_slope, rtol=1e-5, atol=1e-5)


def test_the_same_bits_each_time_and_for_any_number_of_threads():
    student, teacher = torch.randn(130, 40_000), torch.randn(130, 40_000)
    threads = torch.get_num_threads()
    try:
        first = both(lf.kl_divergence, student, teacher)
        again = both(lf.kl_divergence, student, teacher)
        torch.set_num_threads(2 if threads == 1 else 1)
        other = both(lf.kl_divergence, student, teacher)
    finally:
        torch.set_num_threads(threads)
    for found in (again, other):
        assert torch.equal(found[0], first[0])
        assert torch.equal(found[1], first[1])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is Linux's to say")
@pytest.mark.parametrize("name", LOSSES)
def test_beyond_the_logits_one_tensor_of_their_size_is_made(name):
    if name == "sparse":
        kept = torch.arange(KEPT).expand(1024, KEPT), torch.zeros(1024, KEPT).log_softmax(-1)

        def loss(student: Tensor, teacher: Tensor) -> Tensor:
            return lf.kl_sparse(student, *kept)
    else:
        loss = LOSSES[name]
    student, teacher = torch.randn(1024, 32_000).requires_grad_(), torch.randn(1024, 32_000)
    loss(student, teacher).backward()  # compiles
    student.grad = None
    Path("/proc/self/clear_refs").write_text("5")
    before = kilobytes("VmRSS")
    (0.5 * loss(student, teacher)).backward()
    size = student.untyped_storage().nbytes() / 1024
    assert 0.9 * size <= kilobytes("VmHWM") - before <= 1.1 * size


def kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def test_the_wait_is_announced_once(caplog):
    dense.compiled.cache_clear()
    for _ in range(2):
        both(lf.reverse_kl, torch.randn(4, 100), torch.randn(4, 100))
    said = [record.getMessage() for record in caplog.records if record.name == "limbeck"]
    assert said == [
        "compiling reverse_kl for large logits: some seconds, once "
        "(LIMBECK_KERNELS=chunked does without)"
    ]


def test_a_compiler_that_fails_is_said_and_done_without(monkeypatch, caplog):
    """The machine had a compiler, but it does not work."""

    def broken(body, **_):
        return torch._dynamo.optimize(lambda graph, inputs: 1 / 0, nopython=True)(body)

    monkeypatch.setattr(torch, "compile", broken)
    student, teacher = torch.randn(4, 100), torch.randn(4, 100)
    dense.compiled.cache_clear()
    found = both(lf.kl_divergence, student, teacher)
    again = both(lf.kl_divergence, student, teacher)
    dense.compiled.cache_clear()
    monkeypatch.setenv(choice.VARIABLE, "plain")
    expected = both(lf.kl_divergence, student, teacher)
    for pair in (found, again):
        torch.testing.assert_close(pair, expected)
    said = [record.getMessage() for record in caplog.records if record.name == "limbeck"]
    assert len(said) == 2
    assert said[1].startswith("forward_kl cannot be compiled here and runs as it is: backend=")
