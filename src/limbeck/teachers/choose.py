"""From whatever a user calls a teacher to a Teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.errors import TeacherError
from limbeck.models import load_model
from limbeck.teachers.base import Teacher
from limbeck.teachers.black_box import BlackBoxTeacher
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.live import LiveTeacher
from limbeck.teachers.onnx import OnnxTeacher
from limbeck.teachers.peers import PeersTeacher
from limbeck.teachers.snapshot import SnapshotTeacher

Forward = Callable[[nn.Module, Any], Any]


def as_teacher(value: Any, name: str = "teacher") -> Teacher:
    """Read a teacher.

    Args:
        value: a Teacher (returned itself, under the new name), an ``nn.Module`` (LiveTeacher), a
            list or tuple of these (EnsembleTeacher by mean of logits), a callable or an object
            with ``predict_proba`` or ``predict`` (BlackBoxTeacher).
        name: what methods call it.

    Raises:
        TeacherError: something else, or an empty list.
    """
    if isinstance(value, Teacher):
        value.name = name
        return value
    if isinstance(value, nn.Module):
        return LiveTeacher(value, name=name)
    if isinstance(value, list | tuple):
        return EnsembleTeacher(value, name=name)
    answers = hasattr(value, "predict_proba") or hasattr(value, "predict") or callable(value)
    if answers and not isinstance(value, type):
        return BlackBoxTeacher(value, name=name)
    what = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
    raise TeacherError(
        f"teachers.{name}: expected an nn.Module, a Teacher, a list of these, or something that "
        f"gives probabilities (predict_proba or a callable), got {what}"
    )


def as_teachers(
    value: Any, cohort: bool = False, forward: Forward | None = None, past: bool = False
) -> dict[str, Teacher]:
    """Read one teacher, called "teacher", or a mapping of teachers by name.

    Args:
        value: whatever :func:`as_teacher` reads; a folder with a saved student; an ONNX file; a
            mapping of these by name; None for none.
        cohort: whether the students are several: they are each other's teacher "peers".
        forward: ``forward(model, batch)`` for networks that are not called as ``model(inputs)``.
        past: whether a method asks the student of the epoch before: the teacher "self".

    Raises:
        TeacherError: something that is no teacher.
        ModelError: a folder without a student that can be rebuilt.
    """
    given = value if isinstance(value, Mapping) else {"teacher": value}
    teachers = {name: _one(one, name, forward) for name, one in given.items() if one is not None}
    if cohort and "peers" not in teachers:
        teachers["peers"] = PeersTeacher()
    if past and "self" not in teachers:
        teachers["self"] = SnapshotTeacher(name="self", forward=forward)
    return teachers


def _one(teacher: Any, name: str, forward: Forward | None) -> Teacher:
    if isinstance(teacher, str | Path):
        folder = Path(teacher)
        if folder.suffix == ".onnx":
            return OnnxTeacher(folder, name=name)
        teacher = load_model(folder / "student" if (folder / "student").is_dir() else folder)
    if isinstance(teacher, list | tuple):
        members = [_one(one, f"{name}[{i}]", forward) for i, one in enumerate(teacher)]
        return as_teacher(members, name)
    if isinstance(teacher, nn.Module) and forward is not None:
        return LiveTeacher(teacher, name=name, forward=forward)
    return as_teacher(teacher, name)
