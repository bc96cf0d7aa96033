"""Small runs through the whole engine, on real digits, for the tests of methods."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data import DataBundle, load_data
from limbeck.engine.plan import Plan
from limbeck.engine.running import Outcome, run_plan
from limbeck.engine.settings import Checkpoints, Optimizer, Train
from limbeck.methods import as_methods
from limbeck.models import Cohort
from limbeck.models.cnn import CNN
from limbeck.models.explaining_mlp import ExplainingMLP
from limbeck.models.vit import ViT
from limbeck.teachers.live import LiveTeacher
from limbeck.teachers.peers import PeersTeacher
from limbeck.teachers.snapshot import SnapshotTeacher


class WideCNN(CNN):
    """The small CNN in float64, whatever the precision of its inputs."""

    def __init__(self, *channels: int) -> None:
        super().__init__(10, (1, 8, 8), channels=channels)
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.double())


def make_cnn(*channels: int) -> nn.Module:
    return CNN(10, (1, 8, 8), channels=channels)


class Double(nn.Module):
    """Makes its inputs float64."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.double()


def wide_chain(*channels: int) -> nn.Module:
    """The small CNN in float64 as a chain of modules, the widening of its inputs among them."""
    network = CNN(10, (1, 8, 8), channels=channels).double()
    return nn.Sequential(Double(), *network.stages, network.pool, network.head)


class WideExplainingMLP(ExplainingMLP):
    """A small network that explains itself, in float64, whatever the precision of its inputs."""

    def __init__(self, width: int) -> None:
        super().__init__(10, (1, 8, 8), groups=3, width=width)
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.double())


def make_explaining(width: int) -> nn.Module:
    return ExplainingMLP(10, (1, 8, 8), groups=3, width=width)


class WideViT(ViT):
    """A small distilled transformer in float64, whatever the precision of its inputs."""

    def __init__(self) -> None:
        super().__init__(10, (1, 8, 8), patch=4, dim=12, depth=1, distilled=True)
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.double())


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@cache
def digits(num_train: int = 64) -> DataBundle:
    """Digits to train on, half of them without a label."""
    with default_dtype(torch.float32):  # whoever asks first
        return load_data("digits", num_train=num_train, label_fraction=0.5)


def teacher_network(
    wide: bool = False, channels: tuple[int, ...] = (8, 16), explaining: bool = False
) -> nn.Module:
    """A fixed teacher, a little trained, so that it prefers some classes to others."""
    with default_dtype(torch.float32):
        return _teacher_network(wide, channels, explaining)


@cache
def _teacher_network(wide: bool, channels: tuple[int, ...], explaining: bool) -> nn.Module:
    torch.manual_seed(1)
    if explaining:
        network = WideExplainingMLP(24) if wide else make_explaining(24)
        network.grouped.regroup(torch.randperm(64) % 3)
        network.head.prior.copy_(torch.linspace(0.05, 0.15, 10))
    else:
        network = WideCNN(*channels) if wide else make_cnn(*channels)
    view = digits(512).splits["train"]
    batch = view.fetch(torch.arange(len(view)))
    inputs = digits(512).augment_eval(batch.inputs, batch.index)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(15):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), batch.targets).backward()
        optimizer.step()
    optimizer.zero_grad()
    return network.eval().requires_grad_(False)


def make_plan(
    *methods: Any,
    wide: bool = False,
    data: DataBundle | None = None,
    members: int = 2,
    task_weight: float | None = None,
    seed: int = 3,
    **train: Any,
) -> Plan:
    """Return the plan of 8 steps with these methods; ``wide`` is all in float64."""
    chosen = as_methods(list(methods))
    cohort = any(method.card.students == "cohort" for method in chosen)
    branched = any(method.name == "one" for method in chosen)
    cnn = (wide_chain if branched else WideCNN) if wide else make_cnn
    two_heads = any(method.example_student["model"] == "vit" for method in chosen)

    explaining = any(method.example_student["model"] == "explaining_mlp" for method in chosen)
    explained = any(method.example_teacher is not None for method in chosen)

    def make_student() -> nn.Module:
        if two_heads:
            return WideViT()
        if explaining:
            return WideExplainingMLP(8) if wide else make_explaining(8)
        if cohort:
            return Cohort([cnn(4 + 2 * number, 8) for number in range(members)])
        return cnn(4, 8)

    needs = any(method.card.needs_teacher for method in chosen)
    alike = any(method.card.same_network or method.card.same_widths for method in chosen)
    channels = (4, 8) if alike else (8, 16)
    teacher = {"teacher": LiveTeacher(teacher_network(wide, channels, explained))} if needs else {}
    if any(method.teacher == "self" for method in chosen):
        teacher = {"self": SnapshotTeacher(name="self")}
    settings = {
        "epochs": 2,
        "batch_size": 16,
        "optimizer": Optimizer(lr=0.05),
        "log_every": 1,
        "deploy": "last",
        **train,
    }
    return Plan(
        name="method",
        data=data or digits(),
        make_student=make_student,
        methods=chosen,
        teachers={"peers": PeersTeacher()} if cohort else teacher,
        task_weight=task_weight,
        train=Train(**settings),
        checkpoints=Checkpoints(keep=1),
        seed=seed,
    )


def run(plan: Plan, folder: Path) -> Outcome:
    return run_plan(plan, folder, quiet=True)


def log_of(folder: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for line in lines if (record := json.loads(line))["kind"] == kind]


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
