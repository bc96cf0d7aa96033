"""Teachers made of the student itself: a copy that follows it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from limbeck.data.batch import Batch
from limbeck.errors import TeacherError
from limbeck.methods.card import Access
from limbeck.taps import unwrap
from limbeck.taps.outputs import Outputs
from limbeck.teachers.base import Teacher
from limbeck.teachers.live import LiveTeacher

if TYPE_CHECKING:
    from limbeck.data.bundle import DataBundle


class FollowerTeacher(Teacher):
    """Base of teachers that keep a copy of the student and change it as the student learns.

    ``meet`` copies the student, so until the first change the teacher is the initial student. The
    copy is ``state``: a checkpoint of it is all that resume needs.

    Args:
        name: what methods call it.
        forward: ``forward(module, batch)`` where the student is not called as ``module(inputs)``.
    """

    access: Access = "module"
    changes = True

    def __init__(self, name: str, forward: Callable[[Any, Any], Any] | None = None) -> None:
        self.name = name
        self._forward = forward
        self._data: DataBundle | None = None
        self._device: torch.device | None = None
        self._taps: tuple[str, ...] = ()
        self._live: LiveTeacher | None = None

    def bind(self, data: DataBundle | None, device: torch.device) -> None:
        """Keep data and device for the copy to come; move one that is there already."""
        self._data, self._device = data, device
        if self._live is not None:
            self._live.bind(None, device)

    def meet(self, student: nn.Module) -> None:
        """Copy the student as it is now. A later call starts anew from its student."""
        self.close()
        live = LiveTeacher(  # it sees what the student sees, whatever the student was made for
            copy.deepcopy(unwrap(student)),
            normalization=None,
            name=self.name,
            forward=self._forward,
        )
        if self._device is not None:
            live.bind(self._data, self._device)
        live.set_taps(self._taps)
        self._live = live

    def set_taps(self, taps: Sequence[str]) -> None:
        """Put taps on the copy."""
        self._taps = tuple(taps)
        if self._live is not None:
            self._live.set_taps(taps)

    def ask(
        self, batch: Batch, *, taps: Sequence[str] | None = None, require_grad: bool = False
    ) -> Outputs:
        """Return what the copy says; see ``LiveTeacher.ask``."""
        return self._copy().ask(batch, taps=taps, require_grad=require_grad)

    def to_member(self, said: Outputs, member: int) -> Outputs:
        """Return, of the copy of a cohort, what the member's own copy says."""
        cohort = getattr(self._copy().module, "is_cohort", False)
        return said.members[member] if cohort else said

    def _copy(self) -> LiveTeacher:
        if self._live is None:
            raise TeacherError(
                f"teachers.{self.name}: has not met the student yet; call meet(student) first"
            )
        return self._live

    @property
    def module(self) -> nn.Module | None:
        """The copy, once there is a student."""
        return None if self._live is None else self._live.module

    @property
    def forward(self) -> Callable[[Any, Any], Any] | None:
        """What the copy is run by, where that was given."""
        return self._forward

    @property
    def state(self) -> nn.Module | None:
        """The copy, once there is a student."""
        return self.module

    def fingerprint(self) -> str:
        """Return the digest of the copy as it is now: it changes, so never cache its answers."""
        return self._copy().fingerprint()

    def _pairs(self, student: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return (copy's, student's) parameters and buffers in order."""
        mine, theirs = self._copy().module, unwrap(student)
        pairs = [*zip(_tensors(mine), _tensors(theirs), strict=False)]
        if len(_tensors(mine)) != len(_tensors(theirs)) or any(
            a.shape != b.shape for a, b in pairs
        ):
            raise TeacherError(
                f"teachers.{self.name}: the student is no longer the network that was copied; "
                "call meet(student) after changing it"
            )
        return pairs

    def close(self) -> None:
        """Let the copy's hooks go; the copy stays until the next student."""
        if self._live is not None:
            self._live.close()


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]
