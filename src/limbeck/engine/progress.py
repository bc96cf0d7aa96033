"""Where a run stands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.methods.base import Stage


@dataclass
class Position:
    """Where a run stands: all that decides which batch comes next.

    Attributes:
        epoch: epochs done.
        step_in_epoch: optimiser steps done in the current one.
        step: optimiser steps done in all.
        samples: samples seen in all, over all ranks.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    samples: int = 0

    def __str__(self) -> str:
        return f"step {self.step} (epoch {self.epoch})"


@dataclass
class Best:
    """The best epoch by validation so far.

    Attributes:
        value: its metric; None before the first evaluation.
        epoch: which it was.
        member: which member of a cohort is deployed: the best one of that epoch, or of the last
            evaluation where the last epoch is deployed.
        file: name of the file in ``best/`` that holds the student.
    """

    value: float | None = None
    epoch: int = -1
    member: int = 0
    file: str = ""

    def beaten_by(self, value: float, *, higher: bool) -> bool:
        """Whether ``value`` is better; the earlier epoch keeps a tie, and NaN never wins."""
        if math.isnan(value):
            return False
        if self.value is None:
            return True
        return value > self.value if higher else value < self.value


def stage_at(stages: Sequence[Stage], epoch: int) -> tuple[int, int]:
    """Return the index of the stage that ``epoch`` belongs to, and the epoch it began at."""
    start = 0
    for index, stage in enumerate(stages):
        length = stage.epochs or 0
        if epoch < start + length:
            return index, start
        start += length
    raise ValueError(f"epoch {epoch} is past the last stage")
