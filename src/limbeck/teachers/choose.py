"""From whatever a user calls a teacher to a Teacher."""

from __future__ import annotations

from typing import Any

from torch import nn

from limbeck.errors import TeacherError
from limbeck.teachers.base import Teacher
from limbeck.teachers.black_box import BlackBoxTeacher
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.live import LiveTeacher


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
