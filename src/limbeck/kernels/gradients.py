"""Gradients that are computed with the value, kept in one tensor, and scaled on the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from limbeck.kernels.pages import empty_like


class Work(Protocol):
    """Computes a value, and with it the gradient where that is asked for."""

    def __call__(self, student: Tensor, gradient: Tensor | None) -> Tensor:
        """Return the value, a scalar or ``[*batch]``, and fill ``gradient``."""


def value_of(student: Tensor, work: Work, plain: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the value of ``work``, differentiable in ``student``.

    Args:
        student: logits ``[*batch, classes]``.
        work: value and gradient in one go.
        plain: the same loss written in differentiable torch; it gives second derivatives.
    """
    if torch.is_grad_enabled() and student.requires_grad:
        value: Tensor = _WithGradient.apply(student, work, plain)  # type: ignore[no-untyped-call]
        return value
    return work(student, None)


class _WithGradient(torch.autograd.Function):
    """One tensor of the logits' size is kept; the logits themselves are only held, not copied."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, work: Work, plain: Callable[[Tensor], Tensor]) -> Tensor:
        # float16 has no room for a gradient that a loss scaler has not yet made larger
        dtype = torch.float32 if student.dtype == torch.float16 else student.dtype
        ctx.gradient = empty_like(student, dtype)
        value = work(student, ctx.gradient)
        ctx.plain, ctx.dtype = plain, student.dtype
        ctx.save_for_backward(student)
        return value

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (above,) = upstream
        if torch.is_grad_enabled():  # create_graph: the gradient will itself be differentiated
            (student,) = ctx.saved_tensors
            return _differentiable(student, ctx.plain, above), None, None
        gradient, kept = ctx.gradient, _keeps_graph()
        if gradient is None:  # given away by an earlier backward that did not keep the graph
            _ = ctx.saved_tensors  # raises, with torch's own words for it
        if not kept:
            ctx.gradient = None
        return _scaled(gradient, above, in_place=not kept).to(ctx.dtype), None, None


def _scaled(gradient: Tensor, above: Tensor, *, in_place: bool) -> Tensor:
    if above.ndim:
        factor = above[..., None]
    elif in_place and above.is_cpu and above.item() == 1:
        return gradient  # a pass over memory saved; times 1 changes no bit
    else:
        factor = above
    return gradient.mul_(factor) if in_place else (gradient * factor).to(gradient.dtype)


def _differentiable(student: Tensor, plain: Callable[[Tensor], Tensor], above: Tensor) -> Tensor:
    """Return the gradient of the plain form, with a graph of its own."""
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(plain(student), student, above, create_graph=True)
    return gradient


def _keeps_graph() -> bool:
    """Whether this backward may be followed by another through the same graph."""
    return torch._C._autograd._get_current_graph_task_keep_graph()
