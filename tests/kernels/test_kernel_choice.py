"""Which form is taken: shapes and the machine decide, never timing."""

import contextlib

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from limbeck import functional as lf
from limbeck.kernels import choice, form_for
from limbeck.kernels.blocks import blocks


def logits(*shape: int, trains: bool = True, dtype=torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, requires_grad=trains)


@pytest.fixture(autouse=True)
def compiler(monkeypatch):
    monkeypatch.setattr(choice, "has_compiler", lambda device="cpu": True)
    monkeypatch.delenv(choice.VARIABLE, raising=False)


def test_small_logits_go_direct_large_ones_are_fused_larger_ones_compiled():
    assert form_for(logits(128, 100)) == "direct"
    assert form_for(logits(256, 1000)) == "direct"
    assert form_for(logits(512, 1000)) == "chunked"
    assert form_for(logits(1024, 32_000)) == "compiled"
    assert form_for(logits(8, 128, 32_000, dtype=torch.bfloat16)) == "compiled"


def test_short_rows_go_direct():
    assert form_for(logits(2**18, 32)) == "direct"


def test_without_a_gradient_nothing_is_compiled():
    assert form_for(logits(1024, 32_000, trains=False)) == "chunked"
    with torch.no_grad():
        assert form_for(logits(1024, 32_000)) == "chunked"


def test_without_a_compiler_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(choice, "has_compiler", lambda device="cpu": False)
    assert form_for(logits(1024, 32_000)) == "chunked"


@pytest.mark.parametrize("most", ["plain", "chunked", "compiled"])
def test_the_variable_narrows_the_choice(monkeypatch, most):
    monkeypatch.setenv(choice.VARIABLE, most)
    assert form_for(logits(1024, 32_000)) == most
    assert form_for(logits(128, 100)) == ("plain" if most == "plain" else "direct")


def test_an_unknown_choice_is_named(monkeypatch):
    monkeypatch.setenv(choice.VARIABLE, "fast")
    expected = "LIMBECK_KERNELS is 'fast'; expected one of plain, chunked, compiled"
    with pytest.raises(ValueError, match=expected):
        form_for(logits(1024, 32_000))


def test_what_stands_in_for_a_tensor_takes_the_plain_form():
    class Other(Tensor):
        pass

    large = logits(1024, 1000)
    assert form_for(large) == "chunked"
    assert form_for(torch.nn.Parameter(large.detach())) == "chunked"
    assert form_for(large.detach().as_subclass(Other)) == "plain"
    assert form_for(large, large.detach().as_subclass(Other)) == "plain"
    assert form_for(large.to(torch.complex64)) == "plain"


def test_the_machine_is_asked_for_a_compiler(monkeypatch):
    monkeypatch.undo()
    choice.has_compiler.cache_clear()
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    for found in (None, "/usr/bin/g++"):
        choice.has_compiler.cache_clear()
        monkeypatch.setattr("shutil.which", lambda name, f=found: f)
        assert choice.has_compiler() is (found is not None)
    choice.has_compiler.cache_clear()
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    assert not choice.has_compiler()
    choice.has_compiler.cache_clear()


def test_blocks_share_the_rows_evenly_and_copy_nothing():
    first, second = torch.arange(70.0).view(7, 10), torch.arange(7.0).view(7, 1)
    found = list(blocks([first, second], 40))
    assert [len(block[0]) for block in found] == [3, 4]
    assert torch.equal(torch.cat([block[1] for block in found]), second)
    assert found[0][0].data_ptr() == first.data_ptr()
    assert [len(block[0]) for block in blocks([first, second], 3)] == [2, 2, 3]
    assert [len(block[0]) for block in blocks([first[:1], second[:1]], 3)] == [1]
    cut = torch.zeros(2, 5, 4)[:, :-1]
    parts = list(blocks([cut, torch.zeros(2, 4, 1)], 100))
    assert [part[0].shape for part in parts] == [(4, 4), (4, 4)]
    assert parts[1][0].data_ptr() == cut[1].data_ptr()


class Peak(TorchDispatchMode):
    """The most bytes that were alive at once of all that was made under it."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        known = {self._key(each) for each in args if isinstance(each, Tensor)}
        result = function(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(each, Tensor) and self._key(each) not in known:
                storage = each.untyped_storage()
                self.alive[self._key(each)] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {key: one for key, one in self.alive.items() if not one[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return result

    @staticmethod
    def _key(tensor: Tensor) -> int:
        return tensor.untyped_storage()._cdata


KEPT = 16
LOSSES = {
    "kl": lf.kl_divergence,
    "reverse": lf.reverse_kl,
    "jsd": lf.jensen_shannon,
    "sparse": lambda s, t: lf.kl_sparse(s, t[:, :KEPT].argsort(-1), t[:, :KEPT].log_softmax(-1)),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_beyond_the_logits_one_tensor_of_their_size_is_made(monkeypatch, name, weight):
    """Value and gradient together; the plain form makes several, and in float64."""
    student, teacher = torch.randn(1024, 8192).requires_grad_(), torch.randn(1024, 8192)
    size = student.untyped_storage().nbytes()
    monkeypatch.setenv(choice.VARIABLE, "chunked")
    with Peak() as peak:
        (weight * LOSSES[name](student, teacher)).backward()
    assert size <= peak.most <= 1.1 * size
    with torch.no_grad(), Peak() as peak:
        LOSSES[name](student, teacher)
    assert peak.most <= 0.1 * size


def test_the_measure_of_memory_can_fail(monkeypatch):
    monkeypatch.setenv(choice.VARIABLE, "plain")
    student, teacher = torch.randn(256, 1024).requires_grad_(), torch.randn(256, 1024)
    with Peak() as peak, contextlib.suppress(AssertionError):
        lf.kl_divergence(student, teacher).backward()
    assert peak.most > 4 * student.untyped_storage().nbytes()
