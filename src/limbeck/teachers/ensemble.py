"""Ensemble teacher: several teachers, one voice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.data.batch import Batch
from limbeck.errors import TeacherError, unknown
from limbeck.taps.outputs import Outputs
from limbeck.teachers.base import Teacher, refuse_learning
from limbeck.teachers.digest import digest_of_parts

if TYPE_CHECKING:
    from limbeck.data.bundle import DataBundle
    from limbeck.teachers.visits import Visits

MERGES = ("logits", "probabilities")


class EnsembleTeacher(Teacher):
    """Several teachers that answer as one.

    With weights w (sum 1) and members' logits z_m:

    - "logits": z = sum_m w_m z_m. For regression, the mean of the outputs.
    - "probabilities": z = log sum_m w_m softmax(z_m), so that softmax(z) is the mean of the
      members' probabilities. A temperature on z softens that mean, which differs from the mean of
      softened members. With several labels at once, the logit of the mean sigmoid of each label.

    ``members`` of the outputs are the members' own, in order. There are no features: a space
    shared by several networks does not exist. A method that wants one member's features names
    that member as a teacher of its own.

    Args:
        teachers: at least one Teacher or ``nn.Module``.
        merge: "logits" or "probabilities".
        weights: one a teacher, not negative, not all 0; scaled to sum 1. None: all the same.
        name: what methods call it.

    Raises:
        TeacherError: no teachers, peers among them, another merge, weights that do not fit, or
            members whose class counts differ.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher | nn.Module],
        *,
        merge: Literal["logits", "probabilities"] = "logits",
        weights: Sequence[float] | None = None,
        name: str = "ensemble",
    ) -> None:
        from limbeck.teachers.choose import as_teacher
        from limbeck.teachers.peers import PeersTeacher

        self.name = name
        if merge not in MERGES:
            raise TeacherError(f"teachers.{name}: " + unknown("merge", merge, MERGES))
        self.members = tuple(
            as_teacher(value, f"{name}[{number}]") for number, value in enumerate(teachers)
        )
        if not self.members:
            raise TeacherError(f"teachers.{name}: an ensemble needs at least one teacher")
        if any(isinstance(member, PeersTeacher) for member in self.members):
            raise TeacherError(f"teachers.{name}: peers cannot be a member of an ensemble")
        if any(member.access == "sparse" for member in self.members):
            raise TeacherError(
                f"teachers.{name}: a member whose cache keeps some classes only cannot be merged; "
                "put the cache around the ensemble"
            )
        for member in self.members:
            refuse_learning(member, name, "an ensemble")
        self.merge = merge
        self.weights = _shares(name, weights, len(self.members))
        self.changes = any(member.changes for member in self.members)
        self._task = "classification"

    def foresee(self, visits: Visits) -> None:
        """Tell every member."""
        for member in self.members:
            member.foresee(visits)

    def bind(self, data: DataBundle | None, device: torch.device) -> None:
        """Bind every member; the task decides how probabilities are merged."""
        if data is not None:
            self._task = data.task
            if self._task == "regression" and self.merge == "probabilities":
                raise TeacherError(
                    f"teachers.{self.name}.merge: regression has no probabilities, use 'logits'"
                )
        for number, member in enumerate(self.members):
            member.name = f"{self.name}[{number}]"
            member.bind(data, device)

    def meet(self, student: nn.Module) -> None:
        """Introduce the student to every member."""
        for member in self.members:
            member.meet(student)

    def ask(
        self, batch: Batch, *, taps: Sequence[str] | None = None, require_grad: bool = False
    ) -> Outputs:
        """Return the merged logits, and every member's outputs as ``members``."""
        if taps:
            self.set_taps(taps)  # refuses
        voices = tuple(
            member.ask(batch, taps=taps, require_grad=require_grad) for member in self.members
        )
        shapes = {tuple(voice.logits.shape) for voice in voices}
        if len(shapes) > 1:
            raise TeacherError(
                f"teachers.{self.name}: members disagree on the shape of their outputs: "
                + ", ".join(str(list(shape)) for shape in sorted(shapes))
            )
        return Outputs(self._merged([voice.logits for voice in voices]), members=voices)

    def to_member(self, said: Outputs, member: int) -> Outputs:
        """Merge anew where a teacher has something of its own to say to a member."""
        voices = tuple(
            one.to_member(voice, member)
            for one, voice in zip(self.members, said.members, strict=True)
        )
        if all(mine is voice for mine, voice in zip(voices, said.members, strict=True)):
            return said
        return Outputs(self._merged([voice.logits for voice in voices]), members=voices)

    def _merged(self, logits: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack(tuple(logits))
        shape = (-1, *[1] * (stacked.dim() - 1))
        shares = torch.tensor(self.weights, dtype=stacked.dtype, device=stacked.device).view(shape)
        if self.merge == "logits":
            return (shares * stacked).sum(dim=0)
        log_shares = shares.log()  # a share of 0 becomes -inf and drops out of the sum
        if self._task == "multilabel":
            yes = (F.logsigmoid(stacked) + log_shares).logsumexp(dim=0)
            no = (F.logsigmoid(-stacked) + log_shares).logsumexp(dim=0)
            return yes - no
        return (stacked.log_softmax(dim=-1) + log_shares).logsumexp(dim=0)

    def fingerprint(self) -> str:
        """Return the digest over members, merge and weights."""
        prints = (member.fingerprint() for member in self.members)
        return digest_of_parts("ensemble", self.merge, repr(self.weights), self._task, *prints)

    @property
    def module(self) -> nn.Module | None:
        """All members' modules in one; None where a member has none."""
        return _joined([member.module for member in self.members])

    @property
    def state(self) -> nn.Module | None:
        """The states of the members that change, in one."""
        states = [member.state for member in self.members if member.state is not None]
        return _joined(states) if states else None

    def step_begin(self, ctx: Any) -> None:
        """Tell every member where the training stands."""
        for member in self.members:
            member.step_begin(ctx)

    def step_end(self, student: nn.Module, ctx: Any) -> None:
        """Hand the step to every member."""
        for member in self.members:
            member.step_end(student, ctx)

    def epoch_end(self, student: nn.Module, ctx: Any) -> None:
        """Hand the epoch to every member."""
        for member in self.members:
            member.epoch_end(student, ctx)

    def reads(self, data: DataBundle) -> str:
        """Return what members do with their inputs, each difference once."""
        said = dict.fromkeys(member.reads(data) for member in self.members)
        return "; ".join(filter(None, said))

    def describe(self) -> str:
        """Return the merge rule and the members."""
        rule = "mean of " + ("outputs" if self._task == "regression" else self.merge)
        if len(set(self.weights)) > 1:
            rule += " weighted " + ", ".join(f"{share:.3g}" for share in self.weights)
        inner = "; ".join(f"({member.describe()})" for member in self.members)
        return f"{rule} of {len(self.members)} teachers: {inner}"

    def close(self) -> None:
        """Close every member."""
        for member in self.members:
            member.close()


def _shares(name: str, weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    values = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(values) != count:
        raise TeacherError(f"teachers.{name}.weights: {len(values)} weights for {count} teachers")
    total = sum(values)
    if not all(math.isfinite(v) and v >= 0 for v in values) or total <= 0:
        raise TeacherError(
            f"teachers.{name}.weights: expected numbers of at least 0, not all 0, got {values}"
        )
    return tuple(value / total for value in values)


def _joined(modules: Sequence[nn.Module | None]) -> nn.Module | None:
    found = [module for module in modules if module is not None]
    if len(found) < len(modules):
        return None
    joined = nn.ModuleList(found)
    joined.training = False  # the list alone; its members' modes are theirs
    return joined
