"""The five methods that try every seam, as small plans on real digits."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from limbeck.data import DataBundle, load_data
from limbeck.engine.plan import Plan
from limbeck.engine.settings import Checkpoints, Optimizer, Train
from limbeck.methods import as_methods
from limbeck.models import Cohort, build_model
from limbeck.teachers.base import Teacher
from limbeck.teachers.live import LiveTeacher
from limbeck.teachers.peers import PeersTeacher

METHODS = {
    "kd": ["kd"],
    "fitnet": [{"name": "fitnet", "hint_epochs": 1}, "kd"],
    "dml": ["dml"],
    "e2kd": ["e2kd"],
    "kcd": ["kd", {"name": "kcd", "stage_epochs": 1, "tau": 0.6}],
}


@cache
def digits() -> DataBundle:
    """A hundred and sixty digits to train on, half of them without a label, augmented."""
    return load_data("digits", num_train=160, label_fraction=0.5, augment=["flip", {"crop": 1}])


def network(*channels: int, dropout: float = 0.0) -> nn.Module:
    model = build_model("cnn", num_classes=10, input_shape=(1, 8, 8), channels=channels)
    return nn.Sequential(model, nn.Dropout(dropout)) if dropout else model


@cache
def teacher_network() -> nn.Module:
    """A fixed teacher; what it knows does not matter here."""
    torch.manual_seed(1)
    return network(8, 16).eval()


def make_plan(name: str, **train: object) -> Plan:
    """Return the plan of one of the five methods, with an EMA and a checkpoint every 2 steps."""
    teachers: dict[str, Teacher] = {"teacher": LiveTeacher(teacher_network())}

    def make_student() -> nn.Module:
        if name == "dml":
            return Cohort([network(4, 8), network(6, 8)])
        return network(4, 8)

    settings = {
        "epochs": 3,
        "batch_size": 32,
        "optimizer": Optimizer(lr=0.05),
        "ema": 0.9,
        "log_every": 3,
        "clip_norm": 5.0,
        **train,
    }
    return Plan(
        name=name,
        data=digits(),
        make_student=make_student,
        methods=as_methods(METHODS[name]),
        teachers={"peers": PeersTeacher()} if name == "dml" else teachers,
        train=Train(**settings),  # type: ignore[arg-type]
        checkpoints=Checkpoints(every_steps=2, keep=2),
        seed=3,
    )
