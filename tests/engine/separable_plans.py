"""Plans without batch statistics: equal on any number of ranks, and mostly on any split."""

from __future__ import annotations

import torch
from five_methods import digits
from torch import nn

from limbeck.engine.plan import Plan
from limbeck.engine.settings import Checkpoints, Optimizer, Train
from limbeck.methods import as_methods
from limbeck.models import Cohort, build_model
from limbeck.teachers.base import Teacher
from limbeck.teachers.live import LiveTeacher
from limbeck.teachers.online import OnlineTeacher
from limbeck.teachers.peers import PeersTeacher
from limbeck.teachers.snapshot import SnapshotTeacher

PLANS = {
    "kd": ["kd"],
    "joint_hint": [{"name": "fitnet", "projector": "conv1x1", "weight": 1.0}, "kd"],
    "staged_hint": [
        {"name": "fitnet", "projector": "conv1x1", "weight": 1.0, "hint_epochs": 1},
        "kd",
    ],
    "dml": ["dml"],
    "online": ["kd"],
    "e2kd": ["e2kd"],
    "kcd": ["kd", {"name": "kcd", "stage_epochs": 1, "tau": 0.6}],
    "backward": ["kd", {"name": "backward", "rounds": 1}],
    "svrg": [{"name": "pvr", "weight": 1.0, "unbiased": True}, "mask"],
}
# Methods that compare samples, and so depend on micro-batches, but not on ranks.
COUPLED = {
    "sp": [{"name": "sp", "weight": 30.0}],
    "rkd": ["rkd", "kd"],
    "pkt": [{"name": "pkt", "weight": 300.0}],
    "crd": [{"name": "crd", "num_negatives": 20, "dim": 16}],
    "crd_batch": [{"name": "crd", "negatives": "batch", "dim": 16}],
}


def network(*channels: int) -> nn.Module:
    return build_model("cnn", num_classes=10, input_shape=(1, 8, 8), channels=channels, norm="none")


def _teachers(name: str, network: nn.Module) -> dict[str, Teacher]:
    if name == "dml":
        return {"peers": PeersTeacher()}
    if name == "online":
        return {"teacher": OnlineTeacher(network)}
    return {"teacher": SnapshotTeacher() if name == "svrg" else LiveTeacher(network)}


def make_separable_plan(name: str, **train: object) -> Plan:
    """Return a plan whose result must not depend on ranks or micro-batches."""
    torch.manual_seed(1)
    teacher = network(8, 16).eval()

    def make_student() -> nn.Module:
        return Cohort([network(4, 8), network(6, 8)]) if name == "dml" else network(4, 8)

    # Batches of the coupled methods cannot be cut in two equal parts.
    size = 31 if name in COUPLED else 32
    epochs = 3 if name == "backward" else 2
    settings = {"epochs": epochs, "batch_size": size, "optimizer": Optimizer(lr=0.02), **train}
    return Plan(
        name=name,
        data=digits(),
        make_student=make_student,
        methods=as_methods((PLANS | COUPLED)[name]),
        teachers=_teachers(name, teacher),
        train=Train(**settings),  # type: ignore[arg-type]
        checkpoints=Checkpoints(every_steps=3),
        seed=5,
    )
