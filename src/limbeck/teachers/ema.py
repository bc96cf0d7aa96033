"""EMA teacher: the moving average of the student."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from limbeck.errors import TeacherError
from limbeck.teachers.follower import FollowerTeacher


class EmaTeacher(FollowerTeacher):
    """The exponential moving average of the student (Tarvainen and Valpola 2017, 1703.01780).

    After each optimiser step, average <- decay * average + (1 - decay) * student, for parameters
    and floating-point buffers (batch statistics); other buffers are copied. It starts as the
    initial student; with ``warm_up`` that is forgotten quickly: the decay of step t (from 0) is
    min(decay, 1 - 1 / (t + 1)), the plain mean of all steps until the decay is reached, as in the
    authors' code.

    Args:
        decay: in [0, 1).
        warm_up: whether the decay grows from 0.
        name: what methods call it.
        forward: as in ``FollowerTeacher``.

    Raises:
        TeacherError: a decay outside of [0, 1).
    """

    def __init__(
        self,
        decay: float = 0.999,
        *,
        warm_up: bool = True,
        name: str = "ema",
        forward: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        super().__init__(name, forward)
        if not 0 <= decay < 1:
            raise TeacherError(f"teachers.{name}.decay: expected a number in [0, 1), got {decay}")
        self.decay = decay
        self.warm_up = warm_up

    @torch.no_grad()
    def step_end(self, student: nn.Module, ctx: Any) -> None:
        """Move the average towards the student; ``ctx.step`` counts from 0."""
        decay = min(self.decay, 1 - 1 / (ctx.step + 1)) if self.warm_up else self.decay
        averages, values = [], []
        for mine, theirs in self._pairs(student):
            if mine.is_floating_point():
                averages.append(mine.detach())
                values.append(theirs.detach())
            else:
                mine.copy_(theirs)
        if averages:
            torch._foreach_lerp_(averages, values, 1 - decay)

    def describe(self) -> str:
        """Return the decay."""
        growth = ", growing from 0" if self.warm_up else ""
        return f"the student's moving average, decay {self.decay:g}{growth}"
