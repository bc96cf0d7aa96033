"""Which layers of the student a method holds against which of its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from limbeck.errors import TeacherError
from limbeck.methods.base import Method
from limbeck.methods.context import Context
from limbeck.taps import TapPair, pair_taps


def find_pairs(
    method: Method,
    pairs: str | tuple[Any, ...],
    student: nn.Module,
    teachers: Mapping[str, Any],
    ctx: Context,
) -> list[TapPair]:
    """Pair layers of the student and of the method's teacher, as ``pair_taps`` does.

    Where the method names none, that is the first teacher with layers: peers have none of their
    own.

    Raises:
        TeacherError: the teacher has no layers to read.
        TapError, ShapeError: as ``pair_taps``.
    """
    with_layers = [one for one in teachers.values() if one.module is not None]
    first = next(iter(with_layers or teachers.values()))
    teacher = teachers[method.teacher] if method.teacher else first
    if teacher.module is None or ctx.example is None:
        raise TeacherError(f"teachers.{teacher.name}: has no layers that {method.name} could read")
    return pair_taps(student, teacher.module, pairs, student_example=ctx.example.inputs)
