"""Gradients of a task loss in the parameters of a teacher that is the student's own network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data import eval_batches
from limbeck.data.batch import Batch, has_label
from limbeck.errors import MethodError
from limbeck.methods.context import Context
from limbeck.methods.supervised import task_loss
from limbeck.taps import unwrap

if TYPE_CHECKING:
    from limbeck.data import DataBundle

_BATCH = 512


class SameNetwork:
    """A student and a teacher with the same parameters, pairwise.

    Args:
        method: name of the method, for messages.
        student: the student; parameters that are not trained are left out.
        teacher: the Teacher; one that follows the student may have no network yet.

    Raises:
        MethodError: the teacher has no network, or another one.
    """

    def __init__(self, method: str, student: nn.Module, teacher: Any) -> None:
        self.method = method
        self._teacher = teacher
        named = dict(unwrap(student).named_parameters())
        self._names = [name for name, value in named.items() if value.requires_grad]
        self.student = [named[name] for name in self._names]
        if teacher.module is not None:
            self._check(dict(teacher.module.named_parameters()))
        elif not teacher.changes:
            raise MethodError(
                f"method {method}: needs the teacher's parameters, and teacher "
                f"{teacher.name!r} has no network; use a live one"
            )

    def _check(self, theirs: dict[str, nn.Parameter]) -> None:
        for name, ours in zip(self._names, self.student, strict=True):
            found = theirs.get(name)
            if found is None or found.shape != ours.shape:
                there = "nothing" if found is None else list(found.shape)
                raise MethodError(
                    f"method {self.method}: the teacher must be the student's network with other "
                    f"weights: {name} is {list(ours.shape)} in the student, {there} in teacher "
                    f"{self._teacher.name!r}"
                )

    @property
    def teacher(self) -> list[Tensor]:
        """The teacher's parameters now, detached, in the student's order."""
        named = dict(self._teacher.module.named_parameters())
        return [named[name].detach() for name in self._names]

    def refuse_moving_teacher(self) -> None:
        """Raise MethodError for a teacher that changes within an epoch."""
        from limbeck.teachers.base import Teacher

        if type(self._teacher).step_end is not Teacher.step_end:
            raise MethodError(
                f"method {self.method}: unbiased=True takes the teacher's gradient over all data, "
                f"and teacher {self._teacher.name!r} changes in every step; use a snapshot or a "
                "fixed teacher"
            )

    def gradient(self, batch: Batch, task: str) -> tuple[Tensor, list[Tensor]]:
        """Return the teacher's detached logits, and the gradient of its task loss on a batch.

        Parameters that the loss does not depend on have a gradient of 0.
        """
        named = dict(self._teacher.module.named_parameters())
        wanted = [named[name] for name in self._names]
        found = self._differentiate(batch, task, wanted)
        if found is None:  # the network was frozen by this question, its first
            found = self._differentiate(batch, task, wanted)
        assert found is not None
        logits, slopes = found
        pairs = zip(slopes, self.student, strict=True)
        return logits, [
            torch.zeros_like(ours) if slope is None else slope.to(ours.dtype)
            for slope, ours in pairs
        ]

    def _differentiate(
        self, batch: Batch, task: str, wanted: list[nn.Parameter]
    ) -> tuple[Tensor, tuple[Tensor | None, ...]] | None:
        """Return logits and gradients; None where no gradient reached the parameters."""
        assert batch.targets is not None
        with torch.enable_grad(), _differentiable(wanted):
            logits = self._teacher.ask(batch, taps=(), require_grad=True).logits
            if not logits.requires_grad:
                return None
            loss = task_loss(task, logits, batch.targets)
            return logits.detach(), torch.autograd.grad(loss, wanted, allow_unused=True)

    def gradients_as_a_loss(
        self, ours: Tensor, theirs: Tensor, targets: Tensor, task: str, lam: float
    ) -> tuple[Tensor, Tensor]:
        """Return the student's gradients of distillation as a loss, and of the task alone, ``[P]``.

        Args:
            ours: the student's logits, with their graph, which is kept.
            theirs: the teacher's.
            targets: the labels.
            task: kind of task.
            lam: λ, shared by both.
        """
        own = task_loss(task, ours, targets)
        told = (1 - lam) * own + lam * _divergence(task, ours, theirs, has_label(targets))
        return self._slope(told), self._slope(own)

    def _slope(self, loss: Tensor) -> Tensor:
        found = torch.autograd.grad(loss, self.student, retain_graph=True, allow_unused=True)
        pairs = zip(found, self.student, strict=True)
        return _flat([torch.zeros_like(x) if slope is None else slope for slope, x in pairs])

    def distance(self) -> dict[str, float]:
        """Return ‖x - θ‖ as ``distance`` and cos(x, θ) as ``weights_cosine``."""
        ours, theirs = _flat([x.detach() for x in self.student]), _flat(self.teacher)
        cosine = torch.nn.functional.cosine_similarity(ours, theirs, dim=0)
        return {"distance": float((ours - theirs).norm()), "weights_cosine": float(cosine)}

    def digest(self) -> Tensor:
        """Return what tells the teacher's present weights from others: uint8 ``[32]``."""
        return torch.tensor(list(bytes.fromhex(self._teacher.fingerprint())), dtype=torch.uint8)

    @property
    def changes(self) -> bool:
        """Whether the teacher changes during the run."""
        return bool(self._teacher.changes)


class FullGradient(nn.Module):
    """The teacher's gradient over all labelled training samples; its state is that of a run.

    Args:
        pair: student and teacher.
    """

    flat: Tensor
    taken_of: Tensor

    def __init__(self, pair: SameNetwork) -> None:
        super().__init__()
        self.__dict__["pair"] = pair
        size = sum(value.numel() for value in pair.student)
        self.register_buffer("flat", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("taken_of", torch.zeros(32, dtype=torch.uint8))
        self._looked = -1

    def follow(self, data: DataBundle, ctx: Context) -> None:
        """Take it anew where the teacher is not the one that it was taken of."""
        pair: SameNetwork = self.__dict__["pair"]
        if self._looked >= 0 and (self._looked == ctx.epoch or not pair.changes):
            return
        self._looked = ctx.epoch
        now = pair.digest().to(self.taken_of.device)
        if not torch.equal(now, self.taken_of):
            self.flat.copy_(mean_gradient(pair, data, ctx))
            self.taken_of.copy_(now)

    def parts(self) -> list[Tensor]:
        """Return it parameter by parameter."""
        pair: SameNetwork = self.__dict__["pair"]
        pieces = torch.split(self.flat, [value.numel() for value in pair.student])
        return [
            piece.view_as(value).to(value.dtype)
            for piece, value in zip(pieces, pair.student, strict=True)
        ]


def mean_gradient(pair: SameNetwork, data: DataBundle, ctx: Context) -> Tensor:
    """Return the teacher's mean gradient over the labelled training samples, float64 ``[P]``.

    Every rank takes every ``world_size``-th batch; all must call it.
    """
    total = torch.zeros(
        sum(v.numel() for v in pair.student), dtype=torch.float64, device=ctx.device
    )
    count = torch.zeros((), dtype=torch.float64, device=ctx.device)
    batches = eval_batches(data.splits["train"], _BATCH, data.augment_eval)
    for number, batch in enumerate(batches):
        if number % ctx.world_size != ctx.rank or batch.targets is None:
            continue
        labelled = float(has_label(batch.targets).sum())
        _, slopes = pair.gradient(batch.to(ctx.device), ctx.task)
        total += labelled * _flat(slopes).double()
        count += labelled
    total, count = ctx.sum(total), ctx.sum(count)
    return total / count.clamp(min=1)


@contextmanager
def _differentiable(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Let gradients reach frozen parameters for a while."""
    before = [value.requires_grad for value in parameters]
    for value in parameters:
        value.requires_grad_(True)
    try:
        yield
    finally:
        for value, flag in zip(parameters, before, strict=True):
            value.requires_grad_(flag)


def _divergence(task: str, ours: Tensor, theirs: Tensor, labelled: Tensor) -> Tensor:
    """Distance of student and teacher at temperature 1, over the samples that the task counts."""
    ours, theirs = ours[labelled], theirs[labelled]
    if task == "classification":
        return functional.kd(ours, theirs, temperature=1.0)
    if task == "multilabel":
        return functional.kd_multilabel(ours, theirs, temperature=1.0)
    return functional.squared_error(ours, theirs)


def _flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
