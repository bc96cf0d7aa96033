"""Between a loss and the optimiser: what is refused, what methods add, and clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from limbeck.engine.asking import members_of
from limbeck.engine.step import StepModule
from limbeck.errors import MethodError, NonFiniteError, unknown
from limbeck.methods.base import Method, Runtime, Stage
from limbeck.methods.context import Context

_ADVICE = "A lower train.optimizer.lr or train.clip_norm often helps"


def refuse_constant(loss: Tensor, stage: Stage) -> None:
    """Raise MethodError where nothing in the loss depends on the student."""
    if not loss.requires_grad:
        raise MethodError(
            f"stage {stage.name}: no term of the loss teaches the student anything; give a method "
            "with knowledge terms, or a task weight above 0"
        )


def refuse_non_finite_loss(
    loss: Tensor, terms: Mapping[str, Tensor], *, where: str, last: str | None
) -> None:
    """Raise NonFiniteError, naming the guilty terms, before the weights are spoilt.

    Args:
        loss: scalar.
        terms: what it is made of.
        where: step and epoch, in words.
        last: name of the last good checkpoint.
    """
    if math.isfinite(loss.item()):
        return
    guilty = [k for k, v in terms.items() if k != "loss" and not bool(torch.isfinite(v))]
    raise NonFiniteError(
        f"{where}: the loss is {loss.item()}, from {', '.join(guilty) or 'the sum of the terms'}; "
        f"last good checkpoint: {last or 'none yet'}. {_ADVICE}"
    )


def refuse_non_finite_weights(module: nn.Module, *, where: str, last: str | None) -> None:
    """Raise NonFiniteError where a weight is NaN or infinite; arguments as for the loss."""
    for name, parameter in module.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise NonFiniteError(
                f"{where}: the weights {name} became NaN or infinite; last good checkpoint: "
                f"{last or 'none yet'}. {_ADVICE}"
            )


def shape_gradients(
    module: StepModule, ctx: Context, stage: Stage, clip_norm: float | None
) -> None:
    """Add the deltas that methods ask for, scaled by their weights; then clip, adapters included.

    Raises:
        MethodError: a delta for a parameter that the student (of a cohort: the member that the
            runtime serves) does not have.
    """
    members = members_of(module.student)
    for runtime in module.each_runtime():
        asks = type(runtime).gradients is not Runtime.gradients
        if asks and stage.counts(runtime.method.name):
            deltas = runtime.gradients(ctx)
            _add(members[ctx.member], deltas, runtime.method)
    if clip_norm is not None:
        learners = [list(one.parameters()) for one in module.learners]
        theirs = {id(parameter) for one in learners for parameter in one}
        ours = [one for one in module.parameters() if id(one) not in theirs]
        for parameters in (ours, *learners):  # a teacher's step is its own
            nn.utils.clip_grad_norm_(parameters, clip_norm)


def _add(member: nn.Module, deltas: Mapping[str, Tensor], method: Method) -> None:
    named = dict(member.named_parameters())
    for name, delta in deltas.items():
        if name not in named:
            raise MethodError(f"method {method.name}: " + unknown("parameter", name, named))
        grad, scaled = named[name].grad, method.weight * delta.detach()
        named[name].grad = scaled if grad is None else grad + scaled
