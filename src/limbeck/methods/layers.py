"""Pairing layers of student and teacher inside a run, whatever form they are called in."""

from __future__ import annotations

from typing import Any

from torch import nn

from limbeck.errors import TeacherError
from limbeck.methods.context import Context
from limbeck.models.calling import call_model
from limbeck.taps import TapPair, pair_taps


def pair_layers(student: nn.Module, teacher: Any, pairs: Any, ctx: Context) -> list[TapPair]:
    """Return ``pair_taps`` of a student and a Teacher in ``prepare``.

    The teacher's side is measured on inputs as the teacher reads them (its statistics, its size),
    and each side is called as the run calls it (``forward=``).

    Raises:
        TeacherError: the teacher has no layers (a black box), or there is no example.
        TapError, ShapeError: as ``pair_taps``.
    """
    if teacher.module is None or ctx.example is None:
        raise TeacherError(
            f"teachers.{teacher.name}: has no layers that could be read; use a live model"
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
