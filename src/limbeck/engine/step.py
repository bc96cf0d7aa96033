"""One training step's loss: who says what, and how the terms add up."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.engine.asking import StudentVoice
from limbeck.errors import MethodError, TeacherError, unknown
from limbeck.methods.base import Method, Runtime, Stage, unnamed
from limbeck.methods.context import Context
from limbeck.methods.supervised import task_loss
from limbeck.models.calling import evaluating
from limbeck.taps.outputs import Outputs
from limbeck.teachers.base import Teacher
from limbeck.teachers.peers import PeersTeacher
from limbeck.teachers.visits import ask_padded

if TYPE_CHECKING:
    from limbeck.data.view import View


def pick_teacher(teachers: Mapping[str, Teacher], name: str | None) -> str:
    """Return the name of the teacher meant; None: the only one that is not the students' own.

    Raises:
        TeacherError: there is none, there are several and none was named, or the name is unknown.
    """
    if name is None:
        fixed = [one for one in teachers if not isinstance(teachers[one], PeersTeacher)]
        candidates = unnamed(fixed) or unnamed(teachers)
        if len(candidates) == 1:
            return candidates[0]
        names = ", ".join(teachers) or "none"
        raise TeacherError(f"method.teacher: say which of the teachers is meant ({names})")
    if name not in teachers:
        raise TeacherError("method.teacher: " + unknown("teacher", name, teachers))
    return name


class Voices:
    """What the teachers say about one batch; each is asked at most once a batch.

    Args:
        teachers: by name.
        batch: the batch.
        with_graph: teachers whose ordinary pass keeps a graph.
        rows: samples in a full batch.
        meant: which teacher is meant by a name, as far as was found out; kept from batch to batch.
    """

    def __init__(
        self,
        teachers: Mapping[str, Teacher],
        batch: Batch,
        with_graph: frozenset[str],
        rows: int,
        meant: dict[str | None, str],
    ) -> None:
        self._teachers = teachers
        self._rows = rows
        self._batch = batch
        self._with_graph = with_graph
        self._meant = meant
        self._heard: dict[str, Outputs] = {}

    def ask_first(self, names: Iterable[str | None]) -> None:
        """Ask those teachers that answer by themselves, before the student fills the memory."""
        for name in map(self._pick, names):
            if not isinstance(self._teachers[name], PeersTeacher):
                self._ask_once(name)

    def ordinary(self, name: str | None, student: Outputs, member: int) -> Outputs:
        """Return the detached outputs of a teacher for a member of the cohort.

        Args:
            name: which; None: the only one.
            student: what the whole cohort says; peers are heard from it.
            member: who listens.
        """
        name = self._pick(name)
        teacher = self._teachers[name]
        if isinstance(teacher, PeersTeacher):
            return teacher.hear(student, member)
        return teacher.to_member(self._ask_once(name), member).detach()

    def own(self, name: str) -> Outputs:
        """Return the outputs of a teacher that learns, with their graph."""
        return self._ask_once(name)

    def again(
        self,
        member: int,
        batch: Any,
        name: str | None = None,
        *,
        taps: Sequence[str] = (),
        require_grad: bool = False,
    ) -> Outputs:
        """Ask a teacher on purpose (``ctx.teacher``); a pass already made is not repeated."""
        name = self._pick(name)
        teacher = self._teachers[name]
        if batch is self._batch and require_grad and name in self._with_graph:
            heard = teacher.to_member(self._ask_once(name), member)
            if set(taps) <= set(heard.features):
                return heard
        said = teacher.ask(batch, taps=taps, require_grad=require_grad)
        return teacher.to_member(said, member)

    def _pick(self, name: str | None) -> str:
        if name not in self._meant:
            self._meant[name] = pick_teacher(self._teachers, name)
        return self._meant[name]

    def _ask_once(self, name: str) -> Outputs:
        if name not in self._heard:
            teacher = self._teachers[name]
            if name in self._with_graph:
                self._heard[name] = teacher.ask(self._batch, require_grad=True)
            else:
                self._heard[name] = ask_padded(teacher.ask, self._batch, self._rows)
        return self._heard[name]


class StepModule(nn.Module):
    """The student and all runtimes as one module, so that one wrapper synchronises them all.

    Its forward returns the loss of a micro-batch, scaled so that the sum over micro-batches and
    the mean over ranks is the loss of the whole step: knowledge terms average over samples, the
    task term over labelled samples.

    Args:
        student: the student, or a cohort.
        runtimes: for each member, the runtimes of all methods in order.
        voice: runs the student on a batch with the taps of all methods.
        teachers: teachers by name; not part of the module's state.
        ctx: the context that seams see.
        task_weight: weight of the task term.
        with_graph: teachers whose ordinary pass keeps a graph from taps to logits; those that
            learn beside the student are added.
        rows: samples in a full batch; teachers are asked about smaller ones as about a full one.
    """

    def __init__(
        self,
        student: nn.Module,
        runtimes: Sequence[Sequence[Runtime]],
        *,
        voice: StudentVoice,
        teachers: Mapping[str, Teacher],
        ctx: Context,
        task_weight: float,
        with_graph: frozenset[str] = frozenset(),
        rows: int = 0,
    ) -> None:
        super().__init__()
        self.student = student
        self.runtimes = nn.ModuleList(nn.ModuleList(group) for group in runtimes)
        self._groups = [list(group) for group in runtimes]
        self.all_runtimes = [runtime for group in runtimes for runtime in group]
        self._voice = voice
        self._teachers = teachers
        self._ctx = ctx
        self._task_weight = task_weight
        learning = {name: one.learner for name, one in teachers.items() if one.learner is not None}
        self.learners = nn.ModuleList(learning.values())  # a name such as "half" is no attribute's
        self._learning = tuple(learning)
        self._with_graph = with_graph | frozenset(learning)
        self._rows = rows
        self._meant: dict[str | None, str] = {}
        names = [runtime.method.name for runtime in self._groups[0]]
        self._twice = {name for name in names if names.count(name) > 1}
        self.face(0)

    def face(self, member: int) -> None:
        """Let ``ctx`` speak of a member of the cohort; both models can be asked."""
        self._ctx.member = member
        self._ctx.student = _MemberAsk(self._voice, member)
        self._ctx.teacher = self._ask_teacher

    def each_runtime(self) -> Iterator[Runtime]:
        """Yield every runtime, with ``ctx`` facing the member that it serves."""
        for member, group in enumerate(self._groups):
            self.face(member)
            yield from group

    def data_runtimes(self) -> Iterator[Runtime]:
        """Yield the runtimes that may change samples and batches: of a cohort, the first's."""
        self.face(0)
        yield from self._groups[0]

    def begin(self) -> None:
        """Tell the teachers where the training stands, before anybody asks them."""
        for teacher in self._teachers.values():
            teacher.step_begin(self._ctx)

    def choose(self, view: View) -> View:
        """Let the methods choose the samples of the coming epoch; all models are in eval mode.

        Raises:
            MethodError: a method answers with samples of its own.
        """
        self.begin()
        with evaluating(self):
            for runtime in self.data_runtimes():
                samples, view = view.samples, runtime.examples(view, self._ctx)
                if view.samples is not samples:
                    raise MethodError(
                        f"method {runtime.method.name}: examples must return a view over the "
                        "samples it was given (select, with_targets, with_overlay), not over a "
                        "set of its own"
                    )
        return view

    def _ask_teacher(
        self,
        batch: Any,
        name: str | None = None,
        *,
        taps: Sequence[str] = (),
        require_grad: bool = False,
    ) -> Outputs:
        teacher = self._teachers[pick_teacher(self._teachers, name)]
        said = teacher.ask(batch, taps=taps, require_grad=require_grad)
        return teacher.to_member(said, self._ctx.member)

    def member_runtimes(self, member: int) -> list[Runtime]:
        """Return the runtimes that serve one member of the cohort."""
        return self._groups[member]

    def stripped(self, student: nn.Module, member: int = 0) -> nn.Module:
        """Return a member of the cohort, or the student, without what served training only.

        What was put on first comes off last. It may be a copy of the one that is trained.
        """
        runtimes = self.member_runtimes(member)
        for runtime in sorted(runtimes, key=lambda one: one.method.card.replaces_student):
            student = runtime.deploy(student)
        return student

    def forward(self, batch: Batch, stage: Stage) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scaled loss; and for the log, detached, loss and unweighted terms a member."""
        voices = Voices(self._teachers, batch, self._with_graph, self._rows, self._meant)
        methods = [runtime.method for runtime in self._counting(0, stage)]
        voices.ask_first(one.teacher for one in methods if one.card.hears_teacher)
        student = self._voice(batch)
        members = student.members if self._ctx.num_members > 1 else (student,)
        losses: list[tuple[float, Tensor]] = []
        log: dict[str, Tensor] = {}
        for index, member in enumerate(members):
            self.face(index)
            self._ctx.teacher = functools.partial(voices.again, index)
            hear = functools.partial(voices.ordinary, student=student, member=index)
            losses.append((1.0, self._member_loss(index, member, hear, batch, stage, log)))
        self.face(0)  # lets go of the batch
        told = total = _sum(losses, student)
        # A teacher's loss must not hide a student that learns nothing.
        if self._learning and total.requires_grad:
            theirs = self._teachers_loss(voices, batch, len(members), log)
            told, total = total + len(members) * theirs, total + theirs
        _add(log, "loss", told)
        if len(members) > 1:
            log = {name: value / len(members) for name, value in log.items()}
        return _times(self._ctx.world_size, total), log

    def _teachers_loss(
        self, voices: Voices, batch: Batch, members: int, log: dict[str, Tensor]
    ) -> Tensor | float:
        """Return the task terms of the teachers that learn beside the student."""
        total: Tensor | float = 0.0
        for name in self._learning:
            logits = voices.own(name).logits
            if batch.targets is None:
                total = total + 0.0 * logits.sum()  # every parameter takes part in every step
                continue
            value = task_loss(self._ctx.task, logits, batch.targets)
            total = total + batch.label_share * value
            _add(log, f"{name}_task", value, members * batch.label_share)
        return total

    def _member_loss(
        self,
        index: int,
        student: Outputs,
        hear: Callable[[str | None], Outputs],
        batch: Batch,
        stage: Stage,
        log: dict[str, Tensor],
    ) -> Tensor:
        ctx = self._ctx
        losses: list[tuple[float, Tensor]] = []
        if stage.task and self._task_weight > 0 and batch.targets is not None:
            value = self._task(student, batch, self.member_runtimes(index))
            losses.append((self._task_weight * batch.label_share, value))
            _add(log, "task", value, batch.label_share)
        for runtime in self._counting(index, stage):
            method = runtime.method
            heard = hear(method.teacher) if method.card.hears_teacher else student
            for name, value in runtime.losses(student, heard, batch, ctx).items():
                losses.append((method.weight * batch.share, value))
                label = f"{name}@{method.teacher}" if method.name in self._twice else name
                _add(log, label, value, batch.share)
        return _sum(losses, student)

    def _counting(self, index: int, stage: Stage) -> list[Runtime]:
        """Return the runtimes of a member whose terms count in a stage."""
        return [one for one in self.member_runtimes(index) if stage.counts(one.method.name)]

    def _task(self, student: Outputs, batch: Batch, runtimes: Sequence[Runtime]) -> Tensor:
        for runtime in runtimes:
            method: Method = runtime.method
            if method.card.replaces_task:
                return method.task_loss(student, batch, self._ctx)
        assert batch.targets is not None
        return task_loss(self._ctx.task, student.logits, batch.targets)


class _MemberAsk:
    """``ctx.student``: asks the student, or the current member of a cohort."""

    def __init__(self, voice: StudentVoice, member: int) -> None:
        self._voice = voice
        self._member = member

    def __call__(
        self, batch: Any, *, taps: Sequence[str] = (), require_grad: bool = False
    ) -> Outputs:
        return self._voice.ask_member(self._member, batch, taps, require_grad)


def _times(factor: float, value: Tensor) -> Tensor:
    """Return the product; in a small step each operation counts, and times 1 changes no bit."""
    return value if factor == 1 else factor * value


def _sum(losses: Sequence[tuple[float, Tensor]], student: Outputs) -> Tensor:
    """Return the weighted sum, in float32 at least; 0 without a graph where there is none."""
    if not losses:
        return student.logits.new_zeros((), dtype=torch.float32)
    weight, first = losses[0]
    half = first.dtype in (torch.float16, torch.bfloat16)
    total = _times(weight, first.float() if half else first)
    for weight, value in losses[1:]:
        total = torch.add(total, value, alpha=weight)
    return total


def _add(log: dict[str, Tensor], name: str, value: Tensor, share: float = 1.0) -> None:
    value = _times(share, value.detach())
    log[name] = log[name] + value if name in log else value
