"""Teacher: anything that says something about a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.errors import TeacherError
from limbeck.methods.card import Access
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle
    from limbeck.teachers.visits import Visits

_LADDER: tuple[Access, ...] = ("none", "sparse", "outputs", "features", "head", "module")


class Teacher:
    """Base of all teachers. A subclass writes ``ask`` and ``fingerprint``.

    The engine calls, in this order: ``foresee`` (the run's settings), ``bind`` (data and device),
    ``meet`` (the fresh student), ``set_taps``; then loads a checkpoint into ``state`` where it
    resumes; then ``step_begin``, ``ask`` and ``step_end`` each step, and ``epoch_end``; and
    ``close``, always.

    Attributes:
        name: what methods call it.
        access: the most that can be asked of it: "outputs" of a black box, "module" of a live one.
        changes: whether it changes during the run; then ``state`` goes into checkpoints.
        only_temperature: the one temperature at which it can be asked; None: any.
        rescales: whether its logits are those of its module, scaled: see ``scaled``.
        gives_gradients: False of a cache, which could only put such a question to its teacher.
    """

    name: str = "teacher"
    access: Access = "outputs"
    changes: bool = False
    only_temperature: float | None = None
    gives_gradients: bool = True
    rescales: bool = False

    def foresee(self, visits: Visits) -> None:
        """Learn how the run will look at its training samples, once, before ``bind``."""

    def bind(self, data: DataBundle | None, device: torch.device) -> None:
        """Meet the data and the device, once, before the first step."""

    def meet(self, student: nn.Module) -> None:
        """Meet the plain student with its initial weights, once, after ``bind``, before resume."""

    def set_taps(self, taps: Sequence[str]) -> None:
        """Announce the taps that every ordinary call will want."""
        if taps:
            raise TeacherError(
                f"teachers.{self.name}: gives outputs only, no features ({', '.join(taps)}); "
                "use a live model as teacher, or a response-based method"
            )

    def ask(
        self, batch: Batch, *, taps: Sequence[str] | None = None, require_grad: bool = False
    ) -> Outputs:
        """Return what the teacher says about a batch.

        Args:
            batch: the batch; ``teacher_inputs`` are used where present.
            taps: taps for this call; None: those announced by ``set_taps``.
            require_grad: give tapped tensors a graph from them to the logits.

        Returns:
            Outputs; detached unless ``require_grad``.
        """
        raise NotImplementedError

    def scaled(self, logits: Tensor, *, differences: bool = False) -> Tensor:
        """Return what the teacher says where its module gives these logits ``[batch, classes]``.

        Args:
            logits: of the module, on any features; gradients go through.
            differences: whether they are differences of logits, which no bias moves.
        """
        return logits

    def to_member(self, said: Outputs, member: int) -> Outputs:
        """Return what a member of a cohort hears of an answer: all hear the same.

        Args:
            said: what ``ask`` returned.
            member: who listens, from 0.
        """
        return said

    def fingerprint(self) -> str:
        """Return a digest of all that decides what the teacher says. Ask after ``bind``."""
        raise NotImplementedError

    def describe(self) -> str:
        """Return one line for people: what the teacher is and how it was set up."""
        return type(self).__name__

    def reads(self, data: DataBundle) -> str:
        """Return how this teacher's inputs differ from the student's, in words; "" for not at all.

        Said before the first step; may be asked before ``bind``.
        """
        return ""

    def inputs_of(self, batch: Batch) -> Any:
        """Return a batch's inputs as ``module`` reads them. Ask after ``bind``."""
        return stated_inputs(batch)

    @property
    def module(self) -> nn.Module | None:
        """The module to count parameters on, or None for a black box."""
        return None

    @property
    def learner(self) -> nn.Module | None:
        """What the run trains beside the student, by the labels alone; None: nothing."""
        return None

    @property
    def forward(self) -> Callable[[Any, Any], Any] | None:
        """``forward(module, batch)`` where ``module`` is not called as ``module(inputs)``."""
        return None

    @property
    def state(self) -> nn.Module | None:
        """What to checkpoint in a teacher that changes; None for a fixed one."""
        return None

    def step_begin(self, ctx: Any) -> None:
        """Learn where the training stands (``ctx.progress``), before the questions of a step."""

    def step_end(self, student: nn.Module, ctx: Any) -> None:
        """Follow the student after an optimiser step (moving averages)."""

    def epoch_end(self, student: nn.Module, ctx: Any) -> None:
        """Follow the student after an epoch (snapshots)."""

    def close(self) -> None:
        """Let go of hooks and processes."""

    def can_give(self, wanted: Access) -> bool:
        """Whether the teacher can give what a Card's ``teacher_access`` asks."""
        rank = {name: level for level, name in enumerate(_LADDER)}
        return rank[self.access] >= rank.get(wanted, rank["module"])


def in_short(teacher: Teacher) -> str:
    """Return what a teacher is, without how its inputs are set up."""
    return teacher.describe().split(";")[0]


def refuse_learning(teacher: Teacher, name: str, where: str) -> None:
    """Refuse a teacher that learns during the run where its own answers would not be heard.

    Args:
        teacher: one that is to be put into another.
        name: the other's.
        where: what the other is, in words.
    """
    if teacher.learner is not None:
        raise TeacherError(
            f"teachers.{name}: an online teacher learns from its own answers and must stand by "
            f"itself, not in {where}"
        )


def lesser_access(first: Access, second: Access) -> Access:
    """Return the lesser of two accesses: the most that can be asked of two teachers alike."""
    rank = {name: level for level, name in enumerate(_LADDER)}
    return min(first, second, key=lambda access: rank.get(access, len(_LADDER)))


def stated_inputs(batch: Batch) -> Any:
    """What a teacher should look at: its own view where the batch has one."""
    return batch.inputs if batch.teacher_inputs is None else batch.teacher_inputs
