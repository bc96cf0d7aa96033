"""Methods that read the last layers and use the teacher's classifier again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from limbeck.errors import MethodError, ShapeError, TapError, TeacherError
from limbeck.methods.base import Method
from limbeck.methods.context import Context
from limbeck.methods.layers import answering, find_pairs, shown_to, teacher_with_layers
from limbeck.models.calling import call_model
from limbeck.taps import TapPair, averaged_map, infer_roles
from limbeck.taps.pairing import first_member
from limbeck.taps.roles import Call


def last_layers(
    method: Method,
    pairs: str | tuple[Any, ...],
    student: nn.Module,
    teachers: Mapping[str, Any],
    ctx: Context,
) -> TapPair:
    """Return the one pair of layers that a method on the last layers holds together.

    "auto": the maps whose mean is the vector that the head reads; the vectors themselves where one
    of the networks has no such maps.

    Raises:
        MethodError: there are several.
        ShapeError: they are not both maps, or both vectors.
    """
    wanted: Any = pairs
    if pairs == "auto":
        teacher, ours, theirs = shown_to(method, teachers, ctx)
        maps = (
            _averaged(student, ours, ctx.forward or call_model),
            _averaged(teacher.module, theirs, teacher.forward or call_model),
        )
        wanted = (maps,) if all(maps) else "penultimate"
    found = find_pairs(method, wanted, student, teachers, ctx)
    if len(found) != 1:
        taps = ", ".join(pair.student for pair in found)
        raise MethodError(
            f"method.pairs: expected one pair, the last layers, got {len(found)} ({taps}; "
            f"{method.name})"
        )
    (pair,) = found
    forms = len(pair.student_shape), len(pair.teacher_shape)
    if forms[0] != forms[1] or forms[0] not in (2, 4):
        raise ShapeError(
            f"method {method.name}: student tap {pair.student!r} {list(pair.student_shape)} and "
            f"teacher tap {pair.teacher!r} {list(pair.teacher_shape)}: needs maps of both or "
            "vectors of both; name layers that fit (pairs: [[student tap, teacher tap]], or pairs: "
            "penultimate for the vectors that the heads read)"
        )
    return pair


def _averaged(network: nn.Module, example: Any, call: Call) -> str | None:
    """Return a tap of the maps whose mean over positions is what the head reads; None: none."""
    network = first_member(network)
    head = infer_roles(network, example, call=call, stages=False).get("head")
    return averaged_map(network, head, example, call=call) if isinstance(head, str) else None


def teacher_head(method: Method, teachers: Mapping[str, Any], channels: int) -> nn.Linear:
    """Return a copy of the classifier that gives the teacher's answers, which does not learn.

    Raises:
        TeacherError: it has none that is linear and reads so many channels.
    """
    from limbeck.taps import head_of

    teacher = teacher_with_layers(method, teachers)
    head = head_of(first_member(teacher.module))
    if not isinstance(head, nn.Linear) or head.in_features != channels:
        raise TeacherError(
            f"teachers.{teacher.name}: {method.name} uses its classifier again, which must be a "
            f"linear layer of the {channels} channels that are compared, got {_short(head)}; name "
            "the vectors that it reads (pairs: penultimate)"
        )
    return cast(nn.Linear, copy.deepcopy(answering(teacher, head)).requires_grad_(False))


def student_head(method: Method, student: nn.Module, ctx: Context) -> str:
    """Return the path of the student's classifier; TapError where it cannot be told."""
    assert ctx.example is not None
    shown = ctx.example if ctx.forward else ctx.example.inputs
    roles = infer_roles(student, shown, call=ctx.forward or call_model, stages=False)
    head = roles.get("head")
    if not isinstance(head, str):
        raise TapError(
            f"method {method.name}: {type(student).__name__} has no linear classifier that the "
            "teacher's could replace: give it a roles() with 'head'"
        )
    return head


def _short(module: nn.Module) -> str:
    """Return a module in one line."""
    return str(module) if isinstance(module, nn.Linear) else type(module).__name__
