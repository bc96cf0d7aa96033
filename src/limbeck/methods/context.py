"""Context: what a method may know and ask while it works."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from limbeck.data.batch import Batch
from limbeck.taps.outputs import Outputs


class Ask(Protocol):
    """Ask a model about a batch, optionally with taps."""

    def __call__(
        self, batch: Any, *, taps: Sequence[str] = (), require_grad: bool = False
    ) -> Outputs:
        """Return what the model says; ``require_grad`` gives taps a graph of their own."""
        ...


class AskTeacher(Protocol):
    """Ask a named teacher about a batch."""

    def __call__(
        self,
        batch: Any,
        name: str | None = None,
        *,
        taps: Sequence[str] = (),
        require_grad: bool = False,
    ) -> Outputs:
        """Return what the teacher called ``name`` says (None: the only teacher)."""
        ...


def _nobody(*_args: Any, **_kwargs: Any) -> Outputs:
    raise RuntimeError("this context has no models: it was made outside of a Distiller")


def _no_samples(_count: int) -> Batch:
    raise RuntimeError("this context has no data: samples are there in prepare alone")


def _same(tensor: Tensor) -> Tensor:
    return tensor


@dataclass
class Context:
    """State of the run, handed to every seam. Read it; the engine alone writes it.

    Attributes:
        student: asks the student (the current member, in a cohort) about a batch.
        teacher: asks a teacher by name about a batch.
        task: "classification", "multilabel" or "regression".
        num_outputs: classes, labels or regression outputs.
        epoch: epoch number from 0, over all stages.
        epochs: epochs in all.
        step: optimiser steps done so far.
        progress: share of the run that is done, in [0, 1].
        stage: name of the current stage.
        member: which member of a cohort the current call is about.
        num_members: members in the cohort; 1 for one student.
        seed: the run's seed.
        generator: random generator, seeded anew for every step from (seed, step, rank).
        rank: this process among ``world_size``.
        world_size: processes in all.
        device: where the models live.
        sum: adds a tensor over all ranks.
        gather: joins ``[samples, ...]`` of all ranks, in the order of ranks; gradients come back to
            each rank's part. For losses that compare samples.
        example: two samples, for methods that must see shapes in ``prepare``; None elsewhere.
        samples: ``samples(count)`` gives up to so many training samples, evenly spread and as
            evaluation would show them, for methods that must look at data in ``prepare``.
        forward: ``forward(model, batch)`` of students that are not called as ``model(inputs)``.
    """

    student: Ask = _nobody
    teacher: AskTeacher = _nobody
    task: str = "classification"
    num_outputs: int = 0
    epoch: int = 0
    epochs: int = 1
    step: int = 0
    progress: float = 0.0
    stage: str = "train"
    member: int = 0
    num_members: int = 1
    seed: int = 0
    generator: torch.Generator = field(default_factory=torch.Generator)
    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    sum: Callable[[Tensor], Tensor] = _same
    gather: Callable[[Tensor], Tensor] = _same
    example: Batch | None = None
    samples: Callable[[int], Batch] = _no_samples
    forward: Callable[[Any, Any], Any] | None = None
