"""Which layers of the student a method holds against which of its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from limbeck.errors import TeacherError
from limbeck.methods.base import Method
from limbeck.methods.context import Context
from limbeck.models.calling import call_model
from limbeck.taps import TapPair, pair_taps


def teacher_with_layers(method: Method, teachers: Mapping[str, Any]) -> Any:
    """Return the method's teacher; where it names none, the first one with layers.

    Peers have no layers of their own.
    """
    if method.teacher:
        return teachers[method.teacher]
    with_layers = [one for one in teachers.values() if one.module is not None]
    return next(iter(with_layers or teachers.values()))


def find_pairs(
    method: Method,
    pairs: str | tuple[Any, ...],
    student: nn.Module,
    teachers: Mapping[str, Any],
    ctx: Context,
) -> list[TapPair]:
    """Pair layers of the student and of the method's teacher, in ``prepare``.

    The teacher's side is measured on inputs as the teacher reads them (its statistics, its
    size), and each side is called as the run calls it (``forward=``).

    Raises:
        TeacherError: the teacher has no layers (a black box), or there is no example.
        TapError, ShapeError: as ``pair_taps``.
    """
    teacher = teacher_with_layers(method, teachers)
    if teacher.module is None or ctx.example is None:
        raise TeacherError(
            f"teachers.{teacher.name}: has no layers that {method.name} could read; use a live "
            "model"
        )
    seen = ctx.example.replace(inputs=teacher.inputs_of(ctx.example), teacher_inputs=None)
    return pair_taps(
        student,
        teacher.module,
        pairs,
        student_example=ctx.example if ctx.forward else ctx.example.inputs,
        teacher_example=seen if teacher.forward else seen.inputs,
        student_call=ctx.forward or call_model,
        teacher_call=teacher.forward or call_model,
    )
