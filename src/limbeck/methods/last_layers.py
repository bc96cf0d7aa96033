"""Methods that read the last layers and use the teacher's classifier again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from limbeck.errors import MethodError, ShapeError, TapError, TeacherError
from limbeck.methods.base import Method
from limbeck.methods.context import Context
from limbeck.methods.layers import find_pairs, teacher_with_layers
from limbeck.models.calling import call_model, evaluating
from limbeck.taps import TapPair, infer_roles
from limbeck.taps.pairing import first_member
from limbeck.taps.values import tensor_in


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
        teacher = teacher_with_layers(method, teachers)
        maps = None
        if teacher.module is not None and ctx.example is not None:
            seen = ctx.example.replace(inputs=teacher.inputs_of(ctx.example), teacher_inputs=None)
            sides = ((student, ctx.example, ctx.forward), (teacher.module, seen, teacher.forward))
            maps = tuple(averaged_maps(*side) for side in sides)
        wanted = (maps,) if maps and all(maps) else "penultimate"
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


def averaged_maps(
    network: nn.Module, example: Any, forward: Callable[[Any, Any], Any] | None = None
) -> str | None:
    """Return a tap of the maps whose mean over positions is what the head reads; None: none.

    A stage that the network declares, or else the last module that gives them.

    Args:
        network: run once, in eval mode.
        example: a Batch.
        forward: ``forward(network, batch)`` where it is not called as ``network(inputs)``.
    """
    network = first_member(network)
    shown, call = (example, forward) if forward else (example.inputs, call_model)
    maps: list[tuple[str, Tensor]] = []
    vectors: list[Tensor] = []

    def watch(name: str, module: nn.Module) -> RemovableHandle:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            found = tensor_in(output)
            if found is not None and found.ndim == 4:
                maps.append((name, found.detach()))

        return module.register_forward_hook(hook)

    roles = infer_roles(network, shown, call=call, stages=False)
    head, stages = roles.get("head"), roles.get("stages", ())
    if not isinstance(head, str):
        return None
    handles = [watch(name, module) for name, module in network.named_modules() if name]
    handles.append(
        network.get_submodule(head).register_forward_pre_hook(
            lambda _module, inputs: vectors.append(inputs[0].detach()) if inputs else None
        )
    )
    try:
        with evaluating(network):
            call(network, shown)
    finally:
        for handle in handles:
            handle.remove()
    fitting = [(name, one) for name, one in maps if vectors and _averages_to(one, vectors[-1])]
    # The pooled map itself is its own mean: the largest one is meant, in its last form.
    best = max((one[0, 0].numel() for _, one in fitting), default=0)
    paths = [name for name, one in reversed(fitting) if one[0, 0].numel() == best]
    # The dot: a path, also where a role is called so.
    return next((f".{name}" for name in sorted(paths, key=lambda one: one not in stages)), None)


def teacher_head(method: Method, teachers: Mapping[str, Any], channels: int) -> nn.Linear:
    """Return a copy of the teacher's classifier that does not learn.

    Raises:
        TeacherError: it has none that is linear and reads so many channels.
    """
    from limbeck.taps import head_of

    teacher = teacher_with_layers(method, teachers)
    head = head_of(first_member(teacher.module))
    if not isinstance(head, nn.Linear) or head.in_features != channels:
        raise TeacherError(
            f"teachers.{teacher.name}: {method.name} uses its classifier again, which must be a "
            f"linear layer of the {channels} channels that are compared, got {head}; name the "
            "vectors that it reads (pairs: penultimate)"
        )
    return copy.deepcopy(head).requires_grad_(False)


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


def _averages_to(maps: Tensor, vector: Tensor) -> bool:
    mean = maps.mean(dim=(2, 3))
    flat = vector.flatten(1)
    same = mean.shape == flat.shape and mean.dtype == flat.dtype
    return same and torch.allclose(mean, flat, rtol=1e-3, atol=1e-5)
