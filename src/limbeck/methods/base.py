"""Method: what the student should take over, and from which teacher.

A method is two things. The frozen dataclass of its parameters (``KD(temperature=2)``) is what a
recipe says: hashable, reusable over seeds. The :class:`Runtime` that its ``prepare`` returns is an
``nn.Module`` whose state dict is all that the method remembers. A plain method writes ``losses``
on the dataclass and nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.errors import MethodError
from limbeck.methods.card import Card, Coupling
from limbeck.methods.context import Context
from limbeck.taps.outputs import Outputs, as_outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle, View
    from limbeck.methods.compose import MethodSum

Terms = Mapping[str, Tensor]


def unnamed(teachers: Iterable[str]) -> list[str]:
    """Return the names of the teachers that a method may mean which names none.

    "self", the student's own past, is meant by name alone, and "peers" where nobody else is there.
    """
    others = [name for name in teachers if name != "self"]
    return [name for name in others if name != "peers"] or others


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A phase of training within one student.

    Attributes:
        name: shown in logs; ``ctx.stage`` while it lasts.
        epochs: its length; None: all epochs that are left.
        task: whether the task term counts.
        terms: names of the methods whose terms count; None: all.
        without: names of methods whose terms do not count.
        gradient_everywhere: False where part of the student gets no gradient in this stage.
    """

    name: str
    epochs: int | None = None
    task: bool = True
    terms: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()
    gradient_everywhere: bool = True

    @property
    def uses_everything(self) -> bool:
        """Whether every parameter, those of adapters included, gets a gradient."""
        return self.gradient_everywhere and self.terms is None and not self.without

    def counts(self, method: str) -> bool:
        """Whether the terms of the method of that name count."""
        return method not in self.without and (self.terms is None or method in self.terms)


@dataclass(frozen=True, kw_only=True)
class Method:
    """Base of all methods.

    Args:
        weight: scales the knowledge terms, and never the task term.
        teacher: name of the teacher to ask; None: the only one.
    """

    weight: float = 1.0
    teacher: str | None = None

    card: ClassVar[Card]
    name: ClassVar[str]
    student_gradients: ClassVar[bool] = False
    """Whether ``losses`` takes gradients at the student's tapped features, which then exist also
    where nothing before them is trained (the input, frozen embeddings)."""
    example_student: ClassVar[Mapping[str, Any]] = {"model": "cnn"}
    """A student that it can work with, as a recipe writes it: for examples and for tests."""
    example_teacher: ClassVar[Mapping[str, Any] | None] = None
    """A network that it can learn from, where that must be of a kind; None: any will do."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Former names of parameters, which are refused, and the name that each has now."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense. Subclasses extend it and call super first."""
        self.require(self.weight >= 0, "weight", "a number of at least 0")

    def require(self, holds: bool, key: str, expected: str) -> None:
        """Raise MethodError naming ``key`` and its value unless ``holds``."""
        if not holds:
            value = getattr(self, key)
            raise MethodError(f"method.{key}: expected {expected}, got {value!r} ({self.name})")

    # What the method taps. The engine runs each model once a step with all taps asked for.

    def student_taps(self) -> tuple[str, ...]:
        """Taps (paths, globs or roles) this method reads from the student."""
        return ()

    def teacher_taps(self) -> tuple[str, ...]:
        """Taps this method reads from its teacher."""
        return ()

    @property
    def teacher_gradients(self) -> bool:
        """Whether ``losses`` asks its teacher for gradients at the tapped features."""
        return False

    # How samples hang together, which several processes and micro-batches must know.

    @property
    def coupling(self) -> Coupling:
        """Whether a sample's loss depends on others: of the "batch", of a "bank", or "none"."""
        if self.card.bank:
            return "bank"
        return "none" if self.card.separable else "batch"

    @property
    def compares_all_ranks(self) -> bool:
        """Whether a coupled loss sees the samples of all ranks, by ``ctx.gather``."""
        return False

    @property
    def of_each_sample(self) -> str:
        """What it does with each sample's own label or place, as a verb phrase; "": nothing.

        A mixture of two samples (mixup) has neither, so that the two are refused together. Where an
        option decides it, the phrase names the option and is empty without it.
        """
        return self.card.of_each_sample

    # Seams.

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Build the structure of the runtime. Called on every start, also on resume: no fitting.

        The student is in eval mode and under ``no_grad``; where another method changes it
        (``Runtime(method, changed_student)``, ``Card.replaces_student``), it is the changed one.
        """
        return Runtime(self)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return the knowledge terms, unweighted scalars by name. No task term."""
        raise NotImplementedError(f"{type(self).__name__} has neither losses nor a runtime")

    def task_loss(self, student: Outputs, batch: Batch, ctx: Context) -> Tensor:
        """Return the task term; asked only where the Card says ``replaces_task``."""
        raise NotImplementedError(f"{type(self).__name__} does not replace the task term")

    def __call__(
        self, student: Any, teacher: Any = None, batch: Any = None, ctx: Context | None = None
    ) -> Terms:
        """Use the method in a loop of your own: the weighted knowledge terms.

        Args:
            student: student logits ``[batch, classes]``, or Outputs.
            teacher: teacher logits, or Outputs; None where the method needs no teacher.
            batch: a Batch, or just the targets.
            ctx: a Context, where the method asks models again.
        """
        if isinstance(batch, Tensor) or batch is None:
            batch = Batch(inputs=as_outputs(student).logits, targets=batch)
        heard = as_outputs(student) if teacher is None else as_outputs(teacher)
        terms = self.losses(as_outputs(student), heard.detach(), batch, ctx or Context())
        return {name: self.weight * value for name, value in terms.items()}

    # Algebra: methods add up, a number scales the knowledge terms.

    def __rmul__(self, factor: float) -> Method:
        return dataclasses.replace(self, weight=float(factor) * self.weight)

    __mul__ = __rmul__

    def __add__(self, other: Any) -> MethodSum:
        from limbeck.methods.compose import MethodSum, as_methods

        return MethodSum((self, *as_methods(other)))

    def describe(self) -> str:
        """Return the method as it would be written, parameters and all."""
        values = ", ".join(
            f"{field.name}={_written(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if field.name != "teacher" or self.teacher is not None
        )
        return f"{self.name}({values})"


def _written(value: Any) -> str:
    return value.describe() if isinstance(value, Method) else repr(value)


class Runtime(nn.Module):
    """A method at work: adapters, banks and estimates as parameters and buffers.

    Every seam but ``losses`` has a default that does nothing. Parameters are trained with the
    student; the state dict is saved in checkpoints and is all that is restored.
    """

    def __init__(self, method: Method, changed_student: nn.Module | None = None) -> None:
        """Keep the method, and the student where ``prepare`` changed it for good."""
        super().__init__()
        self.method = method
        # Kept out of this module's parameters: the student is trained and saved as itself.
        self.__dict__["changed_student"] = changed_student

    @property
    def student(self) -> nn.Module | None:
        """The student that the method put in place of the one given, or None."""
        changed: nn.Module | None = self.__dict__["changed_student"]
        return changed

    def student_taps(self) -> tuple[str, ...]:
        """Taps read from the student, resolved where the method left them open."""
        return self.method.student_taps()

    def teacher_taps(self) -> tuple[str, ...]:
        """Taps read from the teacher."""
        return self.method.teacher_taps()

    def fit(self, data: DataBundle, ctx: Context) -> None:
        """Fit on training data, once, on a fresh start; never on resume."""

    def stages(self, epochs: int) -> tuple[Stage, ...]:
        """Phases of a training of so many epochs; empty: one phase with everything."""
        return ()

    def examples(self, view: View, ctx: Context) -> View:
        """Select, relabel, overlay or repeat the samples of the coming epoch.

        Global generators and ``ctx.generator`` are seeded from (seed, epoch), the same on every
        rank; all models are in eval mode, and no gradients are recorded. The answer must be a view
        over the same samples. Of a cohort, the first member's runtime alone is called, as for
        ``batch``: all members see the same data.
        """
        return view

    def batch(self, batch: Batch, ctx: Context) -> Batch:
        """Change the batch of a step."""
        return batch

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return the unweighted knowledge terms of a step."""
        return self.method.losses(student, teacher, batch, ctx)

    def gradients(self, ctx: Context) -> Mapping[str, Tensor]:
        """Return deltas to add to gradients, by parameter name of the student (``ctx.member``).

        Called once a step, after accumulation and reduction over ranks, in stages where the
        method's terms count; scaled by the method's weight, then clipped.
        """
        return {}

    def epoch_end(self, ctx: Context) -> None:
        """Bring the memory up to date after an epoch, before evaluation."""

    def synchronize(self, ctx: Context) -> None:
        """Make the state dict the same on every rank. Called before a checkpoint and epoch_end."""

    def report(self) -> Mapping[str, float]:
        """Numbers worth a line in the log of each epoch."""
        return {}

    def deploy(self, student: nn.Module) -> nn.Module:
        """Return the student without what served training only."""
        return student

    def deployed_spec(
        self, spec: Mapping[str, Any] | None, student: nn.Module
    ) -> Mapping[str, Any] | None:
        """Return how to rebuild what ``deploy`` returned; None: that is not known.

        Args:
            spec: how to rebuild the student as it was given; None: unknown.
            student: what was deployed.
        """
        return None if self.method.card.deploys == "grown" else spec
