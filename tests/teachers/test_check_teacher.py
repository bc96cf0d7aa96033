"""The public contract check catches teachers that break each promise."""

import pytest
import torch
from torch import nn

from limbeck.data import Batch
from limbeck.taps import Outputs
from limbeck.teachers import LiveTeacher, Teacher
from limbeck.testing.check_teacher import check_teacher


class Honest(Teacher):
    """Keeps every promise; each subclass breaks one."""

    access = "outputs"

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
        self.calls = 0

    @property
    def module(self):
        return self.net

    def fingerprint(self):
        return str(float(sum(value.detach().double().sum() for value in self.net.parameters())))

    def ask(self, batch, *, taps=None, require_grad=False):
        if taps:
            self.set_taps(taps)
        self.calls += 1
        with torch.no_grad():
            return self.answer(batch)

    def answer(self, batch):
        return Outputs(self.net(batch.inputs))


class Attached(Honest):
    def answer(self, batch):
        with torch.enable_grad():
            return Outputs(self.net(batch.inputs))


class Inference(Honest):
    def answer(self, batch):
        with torch.inference_mode():
            return Outputs(self.net(batch.inputs.clone()))


class Random(Honest):
    def answer(self, batch):
        return Outputs(self.net(batch.inputs) + self.calls)


class Coupled(Honest):
    def answer(self, batch):
        logits = self.net(batch.inputs)
        return Outputs(logits - logits.mean(0))


class Writer(Honest):
    def answer(self, batch):
        logits = self.net(batch.inputs)
        batch.inputs.mul_(1.0).add_(1e-3 if self.calls > 2 else 0)
        return Outputs(logits)


class Trains(Honest):
    def answer(self, batch):
        logits = self.net(batch.inputs)
        self.net[1].train()
        self.net[1](self.net[0](torch.randn(4, 3)))
        if self.calls > 2:
            self.net[1].eval()
        return Outputs(logits)


class Counts(Honest):
    def answer(self, batch):
        self.net[1].num_batches_tracked += 1
        return super().answer(batch)


class Leaks(Honest):
    def answer(self, batch):
        logits = self.net(batch.inputs)
        with torch.enable_grad():
            self.net[0].weight.sum().backward()
        return Outputs(logits)


class Blind(Honest):
    def fingerprint(self):
        return "always the same"


class Restless(Honest):
    def fingerprint(self):
        return f"{super().fingerprint()} {self.calls}"


class Permissive(Honest):
    def set_taps(self, taps):
        pass


class NotFinite(Honest):
    def answer(self, batch):
        return Outputs(self.net(batch.inputs) / 0)


class Flat(Honest):
    def answer(self, batch):
        return Outputs(self.net(batch.inputs)[:, 0])


def question():
    torch.manual_seed(1)
    return Batch(torch.randn(5, 3))


def test_an_honest_teacher_passes():
    check_teacher(Honest(), question())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Attached, "not detached"),
        (Inference, "inference tensor"),
        (Random, "the same question"),
        (Coupled, "a sample alone"),
        (Writer, "inputs of the batch was written to|another answer"),
        (Trains, "another answer|training mode|changed by asking"),
        (Counts, "num_batches_tracked of the teacher was changed"),
        (Leaks, r"gradient of 0\.weight of the teacher was changed"),
        (Blind, "stayed the same though a weight changed"),
        (Restless, "changed though nothing else did"),
        (Permissive, "features were not refused"),
        (NotFinite, "not finite"),
        (Flat, "shape"),
    ],
)
def test_a_broken_promise_is_named(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_teacher(broken(), question())


def test_leaves_the_teacher_as_it_was():
    net = nn.Linear(3, 4)
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    teacher = LiveTeacher(net)
    check_teacher(teacher, question(), taps=("input",))
    teacher.close()
    assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())
    assert all(value.grad is None for value in net.parameters())


def test_needs_two_samples():
    with pytest.raises(AssertionError, match="at least two"):
        check_teacher(Honest(), Batch(torch.zeros(1, 3)))
