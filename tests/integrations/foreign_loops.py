"""The same training twice: by Limbeck's own loop, and as a list of batches for another one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from limbeck.data import DataBundle, batches, load_data
from limbeck.data.batch import Batch, first_tensor
from limbeck.engine.plan import Plan
from limbeck.engine.running import run_plan
from limbeck.engine.settings import Optimizer, Schedule, Train
from limbeck.methods import Card, Method, as_methods
from limbeck.methods.base import Runtime
from limbeck.models import Cohort, build_model
from limbeck.teachers import as_teachers

SEED, EPOCHS, SIZE, RATE = 7, 2, 16, 0.02
STEPS = 4  # in an epoch


@cache
def digits() -> DataBundle:
    return load_data("digits", num_train=SIZE * STEPS)


def network(*channels: int, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("cnn", num_classes=10, input_shape=(1, 8, 8), channels=channels)


def student() -> nn.Module:
    return network(4, 8, seed=2)


def students() -> list[nn.Module]:
    return [network(4, 8, seed=2), network(6, 8, seed=3)]


@cache
def _teacher() -> nn.Module:
    net = network(8, 16)
    (batch,) = stream(SIZE * STEPS, epochs=1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(batch.inputs), batch.targets).backward()
        optimizer.step()
    return net.eval()


def teacher() -> nn.Module:
    return copy.deepcopy(_teacher())


def stream(size: int = SIZE, epochs: int = EPOCHS) -> list[Batch]:
    """Every batch that Limbeck's own loop would see, in order."""
    data = digits()
    return [
        batch
        for epoch in range(epochs)
        for parts in batches(
            data.splits["train"],
            batch_size=size,
            seed=SEED,
            epoch=epoch,
            augment=data.augment_train,
        )
        for batch in parts
    ]


class Rows(Dataset[Any]):
    """The samples of the stream one after the other: an epoch of it is the whole training."""

    def __init__(self, form: str = "pair", epochs: int = EPOCHS) -> None:
        read = stream(epochs=epochs)
        self.inputs = torch.cat([batch.inputs for batch in read])
        self.targets = torch.cat([batch.targets for batch in read])
        self.form = form

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        if self.form == "pair":
            return self.inputs[index], self.targets[index]
        return {"inputs": self.inputs[index], "labels": self.targets[index]}


def own_loop(
    method: Any,
    folder: Path,
    *,
    cohort: bool = False,
    epochs: int = EPOCHS,
    momentum: float = 0.0,
) -> dict[str, Tensor]:
    """Weights of student and adapters after Limbeck's own loop."""
    from safetensors.torch import load_file

    made = Cohort(students()) if cohort else student()
    plan = Plan(
        name="own",
        data=digits(),
        make_student=lambda: made,
        methods=as_methods(method),
        teachers=as_teachers(None if cohort else teacher(), cohort),
        train=Train(
            epochs=epochs,
            batch_size=SIZE,
            optimizer=Optimizer(name="sgd", lr=RATE, momentum=momentum, weight_decay=0.0),
            schedule=Schedule(name="constant", warmup_epochs=0),
            deploy="last",
        ),
        seed=SEED,
    )
    run_plan(plan, folder, quiet=True)
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    return load_file(last / "tensors.safetensors")


def assert_same_as_own(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """``state`` is a Distillation's; a checkpoint numbers the runtimes of all members through."""
    compared = 0
    for name, value in state.items():
        if name.startswith("student."):
            theirs = own["student/" + name.removeprefix("student.")]
        elif name.startswith("runtimes.0."):
            _, _, number, rest = name.split(".", 3)
            theirs = own[f"runtime.{number}/{rest}"]
        else:
            continue
        gap = (value.double() - theirs.double()).abs().max()
        assert gap <= 1e-6, f"{name}: {gap:.1e}"
        compared += 1
    assert compared > 4


@dataclass(frozen=True, kw_only=True)
class Seams(Method):
    """A method for tests that uses the batch, gradients and epoch_end seams, and draws numbers."""

    name: ClassVar[str] = "seams"
    card: ClassVar[Card] = Card(title="seams", equation="none", teacher_access="none")

    def prepare(self, student: nn.Module, teachers: Any, data: Any, ctx: Any) -> Runtime:
        return SeamsRuntime(self, len(next(iter(student.parameters()))))


class SeamsRuntime(Runtime):
    epochs: Tensor

    def __init__(self, method: Method, width: int) -> None:
        super().__init__(method)
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("epochs", torch.zeros(1))
        self.width = width

    def batch(self, batch: Batch, ctx: Any) -> Batch:
        read = first_tensor(batch.inputs)
        noisy = read + 0.1 * torch.randn(read.shape, generator=ctx.generator)
        named = isinstance(batch.inputs, Mapping)
        return batch.replace(inputs={"inputs": noisy} if named else noisy)

    def losses(self, student: Any, teacher: Any, batch: Batch, ctx: Any) -> dict[str, Tensor]:
        drift = 1 + self.epochs.sum()
        return {"seams": drift * (self.scale * student.logits).square().mean()}

    def gradients(self, ctx: Any) -> dict[str, Tensor]:
        return {"head.bias": torch.full((10,), 0.01 * (1 + ctx.step))}

    def epoch_end(self, ctx: Any) -> None:
        self.epochs += 1


@dataclass(frozen=True, kw_only=True)
class Bank(Method):
    """A method for tests that remembers every sample by its index."""

    name: ClassVar[str] = "bank"
    card: ClassVar[Card] = Card(
        title="bank", equation="none", teacher_access="none", needs_index=True
    )
    size: int = 1797  # all digits: an index counts in the whole set

    def prepare(self, student: nn.Module, teachers: Any, data: Any, ctx: Any) -> Runtime:
        return BankRuntime(self, self.size)


class BankRuntime(Runtime):
    seen: Tensor
    kept: Tensor

    def __init__(self, method: Method, size: int) -> None:
        super().__init__(method)
        self.register_buffer("seen", torch.zeros(size))
        self.register_buffer("kept", torch.zeros(size, 10))

    def losses(self, student: Any, teacher: Any, batch: Batch, ctx: Any) -> dict[str, Tensor]:
        before = self.kept[batch.index]
        self.kept[batch.index] = student.logits.detach()
        self.seen[batch.index] += 1
        return {"bank": (student.logits - before).square().mean()}

    def epoch_end(self, ctx: Any) -> None:
        self.kept *= 0.5
