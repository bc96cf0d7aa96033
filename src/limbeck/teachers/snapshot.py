"""Snapshot teacher: the student as it was some epochs ago."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from limbeck.errors import TeacherError
from limbeck.teachers.follower import FollowerTeacher


class SnapshotTeacher(FollowerTeacher):
    """An earlier self of the student (Yang et al. 2019, arXiv 1812.00123).

    A snapshot replaces the one before after ``start_epoch`` epochs and every ``every_epochs``
    from then on. Before the first, the teacher is the initial student: it says what an untrained
    network says, so give its method a weight of 0, or a stage of its own, until then.

    Args:
        every_epochs: epochs between snapshots, at least 1.
        start_epoch: epochs done when the first is taken, at least 1; None: ``every_epochs``.
        name: what methods call it.
        forward: as in ``FollowerTeacher``.

    Raises:
        TeacherError: a number below 1.
    """

    def __init__(
        self,
        every_epochs: int = 1,
        start_epoch: int | None = None,
        *,
        name: str = "snapshot",
        forward: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        super().__init__(name, forward)
        start = every_epochs if start_epoch is None else start_epoch
        for key, value in (("every_epochs", every_epochs), ("start_epoch", start)):
            if value < 1:
                raise TeacherError(f"teachers.{name}.{key}: expected at least 1, got {value}")
        self.every_epochs = every_epochs
        self.start_epoch = start

    @torch.no_grad()
    def epoch_end(self, student: nn.Module, ctx: Any) -> None:
        """Take a snapshot where one is due after epoch ``ctx.epoch`` (from 0)."""
        since = ctx.epoch + 1 - self.start_epoch
        if since < 0 or since % self.every_epochs:
            return
        for mine, theirs in self._pairs(student):
            mine.copy_(theirs)

    def describe(self) -> str:
        """Return when snapshots are taken."""
        return (
            f"the student itself, every {self.every_epochs} epochs from epoch {self.start_epoch} "
            "on; the initial student before"
        )
