"""Which layers of the student a method holds against which of its teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import MethodError, TeacherError
from limbeck.methods.alike import most_alike
from limbeck.methods.base import Method, unnamed
from limbeck.methods.context import Context
from limbeck.models.calling import call_model
from limbeck.taps import LinearHead, TapPair, linear_head, pair_taps


def teacher_with_layers(method: Method, teachers: Mapping[str, Any]) -> Any:
    """Return the method's teacher; where it names none, the first one with layers.

    Peers have no layers of their own.
    """
    if method.teacher:
        return teachers[method.teacher]
    meant = [teachers[name] for name in unnamed(teachers)]
    with_layers = [one for one in meant if one.module is not None]
    return next(iter(with_layers or meant or teachers.values()))


def refuse_unlearned(method: str, teacher: Any, what: str) -> None:
    """Refuse a teacher that learns during the run where it is looked at before that.

    Args:
        method: name of the method.
        teacher: the teacher.
        what: what the method does with it before the first step, in words.

    Raises:
        MethodError: the teacher is an online one.
    """
    if teacher.learner is not None:
        raise MethodError(
            f"method {method}: {what} before the first step, when the online teacher "
            f"{teacher.name!r} has learned nothing; use a teacher that has learned"
        )


def find_pairs(
    method: Method,
    pairs: str | tuple[Any, ...],
    student: nn.Module,
    teachers: Mapping[str, Any],
    ctx: Context,
) -> list[TapPair]:
    """Pair layers of the student and of the method's teacher, in ``prepare``.

    The teacher's side is measured on inputs as the teacher reads them (its statistics, its
    size), and each side is called as the run calls it (``forward=``). Where ``pairs`` is "cka", the
    stages pair by how alike they see training samples (``most_alike``).

    Raises:
        TeacherError: the teacher has no layers (a black box), or there is no example; for "cka",
            too few training samples.
        TapError, ShapeError: as ``pair_taps``.
    """
    teacher, ours, theirs = shown_to(method, teachers, ctx)
    if pairs == "cka":
        refuse_unlearned(method.name, teacher, "pairs layers that see alike (pairs: cka)")
        layers = all_layers(method, ("stages", "stages"), student, teachers, ctx)
        return most_alike(student, teacher, layers, ctx.samples, ctx.forward)
    return pair_taps(
        student,
        teacher.module,
        pairs,
        student_example=ours,
        teacher_example=theirs,
        student_call=ctx.forward or call_model,
        teacher_call=teacher.forward or call_model,
    )


def heads_of(
    method: Method, student: nn.Module, teachers: Mapping[str, Any], ctx: Context
) -> tuple[LinearHead, LinearHead]:
    """Return the classifiers of the student and of the method's teacher, in ``prepare``.

    The teacher's is the one that gives its answers (:func:`answering`).

    Raises:
        TeacherError: as ``find_pairs``.
        TapError: a network has no linear head.
    """
    teacher, ours, theirs = shown_to(method, teachers, ctx)
    head = linear_head(teacher.module, theirs, call=teacher.forward or call_model)
    return (
        linear_head(student, ours, call=ctx.forward or call_model),
        dataclasses.replace(head, module=answering(teacher, head.module)),
    )


@torch.no_grad()
def answering(teacher: Any, head: nn.Module) -> nn.Module:
    """Return the classifier that gives the teacher's answers, in the place of its module's.

    That is the same one, or where the teacher scales its module's logits, a new one that is scaled.

    Args:
        teacher: the teacher, bound.
        head: its module's classifier, with a matrix of weights (or of a 1x1 convolution).
    """
    if not teacher.rescales:
        return head
    weight: Tensor = head.weight.flatten(1)  # type: ignore[operator]
    bias = getattr(head, "bias", None)
    scaled = nn.Linear(weight.shape[1], weight.shape[0], device="meta")  # draws no numbers
    scaled.weight = nn.Parameter(teacher.scaled(weight.T, differences=True).T.contiguous())
    shift = torch.zeros_like(weight[:, 0]) if bias is None else bias
    scaled.bias = nn.Parameter(teacher.scaled(shift[None]).squeeze(0))
    return scaled.requires_grad_(False)


def all_layers(
    method: Method,
    taps: tuple[str, str],
    student: nn.Module,
    teachers: Mapping[str, Any],
    ctx: Context,
) -> tuple[list[TapPair], list[TapPair]]:
    """Return every layer of the student and every one of the teacher, each paired with itself.

    Args:
        method: the method that asks, in ``prepare``.
        taps: what the student's layers and the teacher's are: a role, a path or a glob.
        student: the student.
        teachers: the teachers by name.
        ctx: the context.

    Raises:
        TeacherError, TapError: as ``find_pairs``.
    """
    teacher, ours, theirs = shown_to(method, teachers, ctx)
    sides = (
        (student, taps[0], ours, ctx.forward or call_model),
        (teacher.module, taps[1], theirs, teacher.forward or call_model),
    )
    found = [
        pair_taps(model, model, tap, student_example=example, student_call=call, teacher_call=call)
        for model, tap, example, call in sides
    ]
    return found[0], found[1]


def shown_to(method: Method, teachers: Mapping[str, Any], ctx: Context) -> tuple[Any, Any, Any]:
    """Return the method's teacher, and what the student and it are run on to see shapes.

    Raises:
        TeacherError: the teacher has no layers, or there is no example.
    """
    teacher = teacher_with_layers(method, teachers)
    if teacher.module is None or ctx.example is None:
        raise TeacherError(
            f"teachers.{teacher.name}: has no layers that {method.name} could read; use a live "
            "model"
        )
    seen = ctx.example.replace(inputs=teacher.inputs_of(ctx.example), teacher_inputs=None)
    ours = ctx.example if ctx.forward else ctx.example.inputs
    return teacher, ours, seen if teacher.forward else seen.inputs
