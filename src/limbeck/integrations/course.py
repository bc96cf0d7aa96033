"""The course of a training in a loop of another engine: its stages, and its samples by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limbeck.data import seed_everything_for_step
from limbeck.data.view import View
from limbeck.engine.progress import stage_at
from limbeck.engine.setup import SETUP_STEP, plan_stages, training_view
from limbeck.engine.step import StepModule
from limbeck.errors import MethodError
from limbeck.methods.base import Runtime, Stage
from limbeck.methods.context import Context

if TYPE_CHECKING:
    from limbeck.data import DataBundle

SAMPLES = "samples."
"""Prefix of a view in a state dict."""


class Course:
    """Which stage an epoch belongs to, and which samples it has.

    Args:
        step: student and runtimes.
        ctx: the context that seams see; its ``epoch`` says where training stands.
        epochs: in all; None: told by :meth:`lay`, before the first step.
        data: the data, where they are known.
        seed: the training's seed.

    Raises:
        LimbeckError: the stages do not fit into the epochs.
    """

    def __init__(
        self, step: StepModule, ctx: Context, epochs: int | None, data: DataBundle | None, seed: int
    ) -> None:
        self._step, self._ctx, self._seed, self._data = step, ctx, seed, data
        self._entered = 0
        self._chosen = -1
        self._view = None if data is None else training_view(data, [r.method for r in self._first])
        self._stages: tuple[Stage, ...] = (Stage(name="train"),)
        if epochs is not None:
            self.lay(epochs)

    @property
    def _first(self) -> list[Runtime]:
        return self._step.member_runtimes(0)

    # Stages.

    def lay(self, epochs: int) -> None:
        """Lay the stages over the epochs."""
        self._stages = plan_stages(self._first, epochs, key="epochs")

    @property
    def has_stages(self) -> bool:
        """Whether there is more than one, as far as is known."""
        return len(self._stages) > 1

    @property
    def _index(self) -> int:
        """Number of the present stage; after the last epoch, of the last one."""
        epochs = sum(stage.epochs or 0 for stage in self._stages)
        if self._ctx.epoch >= epochs:
            return len(self._stages) - 1
        return stage_at(self._stages, self._ctx.epoch)[0]

    @property
    def stage(self) -> Stage:
        """The present stage."""
        return self._stages[self._index]

    def enter(self, optimizers: tuple[Any, ...]) -> None:
        """Where a stage begins, let the optimisers forget what they know of the one before."""
        if self._entered == self._index:
            return
        self._entered = self._index
        for optimizer in optimizers:
            optimizer.state.clear()

    def check(self) -> None:
        """Raise MethodError where the loop missed the beginning of a stage, or an epoch's samples.

        Raises:
            MethodError: one of both.
        """
        if self._entered != self._index:
            raise MethodError(
                f"stage {self.stage.name}: begins with a fresh optimiser: call "
                "epoch_start(optimizer) before the first batch of every epoch"
            )
        if self.chooses and self._chosen != self._epoch:
            raise MethodError(
                f"method {self.chooses}: chooses the samples of every epoch: train on "
                "distillation.batches(size), anew in every epoch"
            )

    # Samples.

    @property
    def chooses(self) -> str | None:
        """Name of a method that chooses samples; None where none does."""
        for runtime in self._first:
            if runtime.method.card.selects or type(runtime).examples is not Runtime.examples:
                return runtime.method.name
        return None

    @property
    def _epoch(self) -> int:
        """The present epoch; what is left after the last one belongs to it."""
        return min(self._ctx.epoch, self._ctx.epochs - 1)

    @property
    def view(self) -> View:
        """The samples of the present epoch; at its beginning the methods choose them.

        Raises:
            MethodError: the data are not known.
        """
        if self._view is None:
            raise MethodError(
                "batches: the training data are not known; pass "
                "data=limbeck.data.bundle_from(train, validation, test)"
            )
        if self._chosen != self._epoch:
            self._chosen = self._epoch
            with torch.random.fork_rng(devices=[]):
                seed_everything_for_step(self._seed, SETUP_STEP - 1 - self._epoch, 0)
                self._ctx.generator.manual_seed(torch.initial_seed())
                self._view = self._step.choose(self._view)
        return self._view

    # State.

    def state(self) -> tuple[tuple[int, int], Mapping[str, Tensor]]:
        """Return stage and epoch of the choice, and the chosen samples where there are some."""
        kept = {} if self._view is None or not self.chooses else self._view.state_dict()
        return (self._entered, self._chosen), kept

    def load(self, passed: Sequence[int], samples: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state` gave."""
        self._entered, self._chosen = passed
        if samples and self._view is not None:
            self._view = View.from_state_dict(self._view.samples, samples)
