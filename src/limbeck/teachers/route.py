"""Route teacher: several teachers one after the other, each from its moment of the training on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.errors import TeacherError
from limbeck.methods.card import Access
from limbeck.taps.outputs import Outputs
from limbeck.teachers.base import Teacher, in_short, lesser_access
from limbeck.teachers.digest import digest_of_parts

if TYPE_CHECKING:
    from limbeck.data.bundle import DataBundle
    from limbeck.teachers.visits import Visits


class RouteTeacher(Teacher):
    """Teachers that take over from each other as the student learns.

    With the states that one network passed on its way to convergence, early ones first, this is
    route-constrained optimisation (Jin et al. 2019, arXiv 1904.09149): the student is led along the
    teacher's route instead of being pulled to its end. Of the paper we had the abstract; how the
    anchor points are chosen is therefore yours to say.

    Args:
        teachers: at least two, in order: a Teacher or ``nn.Module`` each.
        at: when each takes over, rising, the first 0: shares of the training in (0, 1), or epochs
            of at least 1. None: even parts of the training.
        name: what methods call it.

    Raises:
        TeacherError: fewer than two teachers, one that changes by itself, moments that do not fit;
            on ``foresee`` (in other loops at the first step), a teacher that would take over
            after the end.
    """

    changes = True

    def __init__(
        self,
        teachers: Sequence[Teacher | nn.Module],
        *,
        at: Sequence[float] | None = None,
        name: str = "route",
    ) -> None:
        from limbeck.teachers.choose import as_teacher

        self.name = name
        self.members = tuple(
            as_teacher(value, f"{name}[{number}]") for number, value in enumerate(teachers)
        )
        if len(self.members) < 2:
            raise TeacherError(f"teachers.{name}: a route needs at least two teachers")
        if any(member.changes for member in self.members):
            raise TeacherError(
                f"teachers.{name}: a teacher on a route must not change by itself during the run"
            )
        if any(member.access == "sparse" for member in self.members):
            raise TeacherError(
                f"teachers.{name}: a cache that keeps some classes only cannot stand on a route"
            )
        # The head or the weights of one network are no property of the whole route.
        self.access: Access = "features"
        for member in self.members:
            self.access = lesser_access(self.access, member.access)
        self.gives_gradients = all(member.gives_gradients for member in self.members)
        self.at = _moments(name, len(self.members), at)
        self._forget_run()
        self._place = _Place()

    def foresee(self, visits: Visits) -> None:
        """Learn how long the training is."""
        for member in self.members:
            member.foresee(visits)
        self._lay(visits.epochs)

    def _forget_run(self) -> None:
        """Lay moments in epochs anew in the next run."""
        self._starts: tuple[float, ...] | None = None if _in_epochs(self.at) else self.at

    def _lay(self, epochs: int) -> tuple[float, ...]:
        """Lay the moments over so many epochs."""
        self._starts = tuple(_share(moment, epochs) for moment in self.at)
        if self._starts[-1] >= 1:
            raise TeacherError(
                f"teachers.{self.name}.at: the last teacher would take over after "
                f"{self.at[-1]:g} epochs, but the training has {epochs}"
            )
        return self._starts

    def bind(self, data: DataBundle | None, device: torch.device) -> None:
        """Bind every teacher, and begin with the first."""
        for number, member in enumerate(self.members):
            member.name = f"{self.name}[{number}]"
            member.bind(data, device)
        self._place.number.zero_()

    def meet(self, student: nn.Module) -> None:
        """Introduce the student to every teacher."""
        for member in self.members:
            member.meet(student)

    def set_taps(self, taps: Sequence[str]) -> None:
        """Put the taps on every teacher."""
        for member in self.members:
            member.set_taps(taps)

    def step_begin(self, ctx: Any) -> None:
        """Let the teacher take over whose moment has come."""
        starts = self._starts or self._lay(ctx.epochs)
        reached = [number for number, start in enumerate(starts) if start <= _late(ctx)]
        self._place.number.fill_(reached[-1])

    @property
    def current(self) -> int:
        """Number of the teacher that is asked now, from 0."""
        return int(self._place.number)

    def ask(
        self, batch: Batch, *, taps: Sequence[str] | None = None, require_grad: bool = False
    ) -> Outputs:
        """Return what the current teacher says."""
        return self.members[self.current].ask(batch, taps=taps, require_grad=require_grad)

    def fingerprint(self) -> str:
        """Return the digest of all teachers and moments: it changes, so never cache its answers."""
        prints = (member.fingerprint() for member in self.members)
        return digest_of_parts("route", repr(self.at), str(self.current), *prints)

    @property
    def hides_members(self) -> bool:
        """Whether one of the teachers keeps no single voices behind its answers."""
        return any(getattr(member, "hides_members", False) for member in self.members)

    @property
    def module(self) -> nn.Module | None:
        """The current teacher's module."""
        return self.members[self.current].module

    @property
    def forward(self) -> Callable[[Any, Any], Any] | None:
        """What the current teacher's module is run by."""
        return self.members[self.current].forward

    @property
    def state(self) -> nn.Module:
        """Which teacher is asked now."""
        return self._place

    def reads(self, data: DataBundle) -> str:
        """Return what teachers do with their inputs, each difference once."""
        said = dict.fromkeys(member.reads(data) for member in self.members)
        return "; ".join(filter(None, said))

    def inputs_of(self, batch: Batch) -> Any:
        """Return the inputs as the current teacher reads them."""
        return self.members[self.current].inputs_of(batch)

    def describe(self) -> str:
        """Return who takes over when."""
        who = " -> ".join(f"({in_short(member)})" for member in self.members)
        return f"a route of {len(self.members)} teachers, from {self.moments} on: {who}"

    @property
    def moments(self) -> str:
        """When each takes over, in words."""
        unit = "epoch " if _in_epochs(self.at) else ""
        return ", ".join(f"{unit}{moment:.4g}" if moment else "the start" for moment in self.at)

    def close(self) -> None:
        """Close every teacher."""
        self._forget_run()
        for member in self.members:
            member.close()


class _Place(nn.Module):
    """Where on the route the run is; a module, so that checkpoints keep it."""

    number: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("number", torch.zeros((), dtype=torch.int64))
        self.training = False


def check_moments(count: int, at: Sequence[float]) -> str:
    """Return what is wrong with the moments at which ``count`` teachers take over; "" if nothing.

    Args:
        count: number of teachers.
        at: shares of the training in (0, 1) or epochs of at least 1, the first 0.
    """
    if len(at) != count:
        return f"expected {count} numbers, one for each teacher"
    rising = all(a < b for a, b in pairwise(at))
    if at[0] != 0 or not rising or not all(map(math.isfinite, at)):
        return "expected rising numbers that begin with 0"
    if len(at) > 1 and at[1] < 1 <= at[-1]:
        return "expected either shares of the training (below 1) or epochs (at least 1), got both"
    return ""


def _moments(name: str, count: int, at: Sequence[float] | None) -> tuple[float, ...]:
    if at is None:
        return tuple(number / count for number in range(count))
    wrong = check_moments(count, at)
    if wrong:
        raise TeacherError(f"teachers.{name}.at: {wrong}, got {list(at)}")
    return tuple(float(moment) for moment in at)


def _in_epochs(at: Sequence[float]) -> bool:
    return at[-1] >= 1


def _share(moment: float, epochs: int) -> float:
    return moment if moment < 1 else moment / epochs


def _late(ctx: Any) -> float:
    """Return the progress, forgiving the rounding of ``(epoch + step / steps) / epochs``."""
    return float(ctx.progress) + 1e-9
