"""A scene: one method at work between made-up networks on a handful of samples."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data import bundle_from
from limbeck.data.batch import IGNORE, Batch
from limbeck.data.bundle import DataBundle
from limbeck.methods.base import Method, Runtime
from limbeck.methods.context import Context
from limbeck.models import build_model
from limbeck.taps import tap_shapes
from limbeck.taps.outputs import Outputs
from limbeck.teachers.base import Teacher
from limbeck.teachers.live import LiveTeacher
from limbeck.teachers.peers import PeersTeacher
from limbeck.testing.speaker import Speaker, make_speaker

Network = Callable[[int], nn.Module]
NUM_SAMPLES = 8
NUM_PEERS = 2


@dataclass(frozen=True, eq=False)
class Moment:
    """The arguments of one call of a runtime's ``losses``."""

    runtime: Runtime
    student: Outputs
    teacher: Outputs
    batch: Batch
    ctx: Context

    def terms(self) -> dict[str, Tensor]:
        """Make the call; with the task term of a method that redefines supervision, as "task"."""
        terms = dict(self.runtime.losses(self.student, self.teacher, self.batch, self.ctx))
        method = self.runtime.method
        if method.card.replaces_task:
            terms["task"] = method.task_loss(self.student, self.batch, self.ctx)
        return terms

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that the call is given, by what a person would call it."""
        assert self.batch.targets is not None
        found = {"the batch's inputs": self.batch.inputs, "the targets": self.batch.targets}
        voices = {"the student": self.student, "the teacher": self.teacher}
        voices |= {f"peer {i}": peer for i, peer in enumerate(self.teacher.members)}
        for who, said in voices.items():
            found[f"{who}'s logits"] = said.logits
            found |= {f"{who}'s feature {name}": value for name, value in said.features.items()}
        return found


@dataclass(frozen=True, eq=False)
class Scene:
    """One method with everything it needs, so that its losses are a function of two tables.

    Attributes:
        method: the method.
        task: kind of task.
        student: the made-up student.
        teachers: the made-up teacher; in a cohort, the peers.
        runtime: what ``prepare`` returned; every evaluation works on a copy.
        batch: all samples.
    """

    method: Method
    task: str
    student: Speaker
    teachers: tuple[Speaker, ...]
    runtime: Runtime
    batch: Batch

    def terms(self, rows: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Return the unweighted terms for the samples in ``rows`` (None: all), adapters in eval.

        A method that redefines supervision has its task term among them, as "task".
        """
        return self.at_work(rows).terms()

    def at_work(self, rows: Sequence[int] | None = None) -> Moment:
        """Return everything one call of ``losses`` is about."""
        batch = self.batch if rows is None else take(self.batch, rows)
        runtime = copy.deepcopy(self.runtime).eval()
        student = self.student if _collects(self.student) else self.student.watched()
        ctx = self._context(student)
        batch = runtime.batch(batch, ctx)
        said = student.answer(batch)
        return Moment(runtime, said, self._heard(said, batch), batch, ctx)

    def total(self, rows: Sequence[int] | None = None) -> Tensor:
        """Return the sum of the terms; a 0 without a graph where there is none."""
        return _sum(self.terms(rows), self.student.logits.dtype)

    def gradients(self) -> list[Tensor]:
        """Return the gradients of ``total`` at the student's logits and features."""
        return self.differentiated()[1]

    def differentiated(self) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return the terms, and the gradients of their sum, from one evaluation."""
        watched = dataclasses.replace(self, student=self.student.watched())
        leaves, terms = watched.student.tensors, watched.terms()
        total = _sum(terms, leaves[0].dtype)
        if not total.requires_grad:
            return terms, [torch.zeros_like(leaf) for leaf in leaves]
        found = torch.autograd.grad(total, leaves, allow_unused=True)
        pairs = zip(found, leaves, strict=True)
        return terms, [torch.zeros_like(leaf) if g is None else g for g, leaf in pairs]

    def cast(self, dtype: torch.dtype) -> Scene:
        """Return the scene in another precision; adapters are never below float32.

        Features stay in the adapters' precision where there are adapters or where gradients are
        taken through features: half precision there would be autocast's doing, not the loss's.
        """
        wide = torch.float32 if dtype.itemsize < 4 else dtype
        apart = bool(list(self.runtime.parameters())) or self.method.card.double_backward
        features = wide if apart else dtype
        runtime = copy.deepcopy(self.runtime).to(wide)

        def one(speaker: Speaker) -> Speaker:
            return speaker.cast(dtype, dtype).cast(dtype, features)  # rounded, then wide again

        return dataclasses.replace(
            self,
            student=one(self.student),
            teachers=tuple(one(teacher) for teacher in self.teachers),
            runtime=runtime,
        )

    def to(self, device: torch.device) -> Scene:
        """Return the scene with its answers on a device, where its networks are."""
        return dataclasses.replace(
            self,
            student=self.student.to(device),
            teachers=tuple(teacher.to(device) for teacher in self.teachers),
            batch=self.batch.to(device),
        )

    def _heard(self, said: Outputs, batch: Batch) -> Outputs:
        if not self.method.card.needs_teacher:
            return said
        voices = tuple(teacher.answer(batch) for teacher in self.teachers)
        if self.method.card.students == "one":
            return voices[0]
        return Outputs(torch.stack([v.logits for v in voices]).mean(0), members=voices)

    def _context(self, student: Speaker) -> Context:
        ctx = make_context(self.task, self.student.logits.shape[1])
        ctx.device = self.student.logits.device
        if self.method.card.students == "cohort":
            ctx.num_members = NUM_PEERS + 1

        def ask_student(batch: Batch, *, taps: Any = (), require_grad: bool = False) -> Outputs:
            return student.answer(batch)

        def ask_teacher(
            batch: Batch, name: Any = None, *, taps: Any = (), require_grad: bool = False
        ) -> Outputs:
            return self.teachers[0].answer(batch, cut=not _collects(self.teachers[0]))

        ctx.student, ctx.teacher = ask_student, ask_teacher
        return ctx


def make_scene(
    method: Method,
    task: str = "classification",
    num_outputs: int = 5,
    *,
    num_samples: int = NUM_SAMPLES,
    scale: float = 3.0,
    equal: bool = False,
    seed: int = 0,
    make_student: Network | None = None,
    make_teacher: Network | None = None,
    input_shape: Sequence[int] = (1, 8, 8),
    device: torch.device | str = "cpu",
) -> Scene:
    """Put a method between a made-up student and teacher.

    Real small networks are built once, for ``prepare`` and for the shapes of what it taps.

    Args:
        method: the method.
        task: kind of task.
        num_outputs: classes, labels or outputs.
        num_samples: samples in the batch.
        scale: the largest logit.
        equal: whether the teacher is the student's very copy.
        seed: of all numbers.
        make_student: builds a network with so many outputs; None: the method's example, a small
            CNN.
        make_teacher: likewise; None: a wider CNN.
        input_shape: shape of one input of these networks.
        device: where the losses are computed; all numbers are drawn on the CPU, the same for each.
    """
    device = torch.device(device)
    generator = torch.Generator().manual_seed(seed)
    originals = torch.rand(num_samples, *input_shape, generator=generator)
    batch = Batch(
        inputs=originals,
        targets=_targets(task, num_samples, num_outputs, generator),
        index=torch.arange(num_samples),
    )
    shape = tuple(input_shape)
    make_student = make_student or _example(method.example_student, shape)
    alike = equal or method.card.same_network or method.card.same_widths
    make_teacher = make_student if alike else make_teacher or _other(method, shape)
    cohort = method.card.students == "cohort"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = make_student(num_outputs).eval()
        network = make_teacher(num_outputs).eval()
        student, network = student.to(device), network.to(device)
        if method.card.same_network:  # parameters, not made-up answers, are what is computed with
            student, network = student.double(), network.double()
        teacher: Teacher = PeersTeacher() if cohort else LiveTeacher(network)
        ctx = make_context(task, num_outputs)
        ctx.num_members = NUM_PEERS + 1 if cohort else 1
        ctx.example, ctx.device = take(batch, range(min(2, num_samples))).to(device), device
        name = method.teacher or teacher.name
        data = _bundle(originals, batch, task, num_outputs)
        with torch.no_grad():
            runtime = method.prepare(student, {name: teacher}, data, ctx).to(device).double()
        teacher.close()
    student = runtime.student or student  # where the method puts another in its place
    student = student.to(device)
    shown = (originals[:1].double() if method.card.same_network else originals[:1]).to(device)
    ours = tap_shapes(student, runtime.student_taps(), shown)
    theirs = tap_shapes(student if cohort else network, runtime.teacher_taps(), shown)

    def speak(shapes: dict[str, tuple[int, ...]]) -> Speaker:
        return make_speaker(originals, num_outputs, shapes, scale=scale, generator=generator)

    speaker = speak(ours)
    count = NUM_PEERS if cohort else 1
    teachers = tuple(_renamed(speaker, theirs) if equal else speak(theirs) for _ in range(count))
    return Scene(method, task, speaker, teachers, runtime, batch).to(device)


def make_context(task: str, num_outputs: int) -> Context:
    """Return a context in mid-run (schedules are under way), seeded, with nobody to ask."""
    generator = torch.Generator().manual_seed(1)
    return Context(task=task, num_outputs=num_outputs, generator=generator, epoch=2, epochs=6)


def take(batch: Batch, rows: Sequence[int]) -> Batch:
    """Return the samples of ``rows``, in that order."""
    assert batch.targets is not None
    assert batch.index is not None
    chosen = torch.as_tensor(list(rows), dtype=torch.int64, device=batch.index.device)
    return batch.replace(
        inputs=batch.inputs[chosen], targets=batch.targets[chosen], index=batch.index[chosen]
    )


def unlabelled(targets: Tensor) -> Tensor:
    """Return targets of the same form that say nothing."""
    return torch.full_like(targets, torch.nan if targets.is_floating_point() else IGNORE)


def _targets(task: str, samples: int, outputs: int, generator: torch.Generator) -> Tensor:
    if task == "classification":
        return torch.randint(outputs, (samples,), generator=generator)
    values = torch.rand(samples, outputs, generator=generator)
    return values.round() if task == "multilabel" else values


def _cnn(channels: tuple[int, ...], shape: tuple[int, ...]) -> Network:
    def make(num_outputs: int) -> nn.Module:
        return build_model(
            "cnn", num_classes=num_outputs, input_shape=shape, channels=channels, norm="none"
        )

    return make


def _other(method: Method, shape: tuple[int, ...]) -> Network:
    """Return what builds a teacher that the method can learn from."""
    if method.example_teacher is None:
        return _cnn((5, 7), shape)
    return _example(method.example_teacher, shape)


def _example(written: Mapping[str, Any], shape: tuple[int, ...]) -> Network:
    """Return what builds a small network, written as a recipe writes it."""
    arguments = dict(written)
    model = arguments.pop("model")
    if model == "cnn" and not arguments:
        return _cnn((4, 6), shape)

    def make(num_outputs: int) -> nn.Module:
        return build_model(model, num_classes=num_outputs, input_shape=shape, **arguments)

    return make


def _bundle(originals: Tensor, batch: Batch, task: str, num_outputs: int) -> DataBundle:
    assert batch.targets is not None
    part = (originals, batch.targets)
    pairs = torch.arange(num_outputs) // 2  # a made-up hierarchy
    return bundle_from(
        part, part, part, task=task, num_classes=num_outputs, superclasses={"pairs": pairs}
    )


def _renamed(speaker: Speaker, shapes: dict[str, tuple[int, ...]]) -> Speaker:
    """Return the speaker with its features under the names of the teacher's taps, in order."""
    names = list(shapes)
    features = dict(zip(names, speaker.features.values(), strict=True))
    pull = dict(zip(names, speaker.pull.values(), strict=True))
    return dataclasses.replace(speaker, features=features, pull=pull)


def _sum(terms: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    if not terms:
        return torch.zeros((), dtype=dtype)
    return torch.stack([term.to(torch.float64) for term in terms.values()]).sum()


def _collects(speaker: Speaker) -> bool:
    return speaker.logits.requires_grad
