"""What the tests of feature methods share."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from limbeck.data.batch import Batch
from limbeck.engine import distiller
from limbeck.methods.context import Context
from limbeck.models import build_model
from limbeck.teachers.live import LiveTeacher


def prepare(method: Any, student: nn.Module, teacher: nn.Module, size: int = 16) -> Any:
    ctx = Context(example=Batch(inputs=torch.rand(2, 1, size, size)), num_outputs=10)
    return method.prepare(student, {"teacher": LiveTeacher(teacher)}, None, ctx)


def runtimes_of(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every runtime that a run fits, in order."""
    seen: list[Any] = []
    fitting = distiller.fit_runtimes

    def note(parts: Any, data: Any) -> None:
        fitting(parts, data)
        seen.extend((one, copy.deepcopy(one.state_dict())) for one in parts.runtimes)

    monkeypatch.setattr(distiller, "fit_runtimes", note)
    return seen


def plain_cnn() -> nn.Module:
    torch.manual_seed(5)
    return build_model("cnn", num_classes=10, input_shape=(1, 8, 8), channels=(4, 6), norm="none")
