"""Distillation: student, teachers and methods as one module for a loop that is not Limbeck's."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.data.seeds import mix
from limbeck.engine.asking import StudentVoice, members_of
from limbeck.engine.checking import check_methods
from limbeck.engine.distributed import World
from limbeck.engine.gradients import refuse_constant, shape_gradients
from limbeck.engine.plan import Wiring
from limbeck.engine.setup import SETUP_STEP, join_step, prepare_student
from limbeck.engine.step import StepModule
from limbeck.errors import MethodError
from limbeck.integrations.course import Course
from limbeck.integrations.epoch_batches import EpochBatches, epoch_loader
from limbeck.integrations.reading import (
    Forward,
    as_batch,
    check_teacher,
    count_outputs,
    read_student,
    task_of,
)
from limbeck.integrations.refusals import refuse_methods, refuse_runtimes, refuse_teachers
from limbeck.integrations.state import Remembering
from limbeck.methods import Method, as_methods
from limbeck.methods.base import Runtime
from limbeck.methods.context import Context
from limbeck.models import Cohort
from limbeck.models.calling import twice_differentiable_attention
from limbeck.teachers import as_teachers

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from limbeck.data import DataBundle


class Distillation(Remembering):
    """Any method in a loop of your own: call it on a batch, and it returns the loss.

    It holds the student and what the methods learn beside it (adapters, memory); these are its
    parameters and its ``state_dict``. Fixed teachers are in neither; a teacher that changes (a
    snapshot, an average) is in the state dict, without being trained. Wrapped in
    ``DistributedDataParallel`` it is one forward for all.

    Args:
        student: a module, trained in place; or a list of modules that learn together (a cohort).
        teacher: what ``limbeck.distill`` takes: a module, a Teacher, a list, a mapping by name.
        method: a name, a method such as ``lb.KD(temperature=2)``, or a sum of methods.
        example: a batch of at least two samples, from which methods see shapes.
        task: "classification", "multilabel" or "regression"; None: guessed from the example.
        task_weight: weight of the one task term; None: that of the leftmost method's paper.
        forward: ``forward(model, batch)`` for models that are not called as ``model(inputs)``.
        data: the data, for methods that fit on them, remember samples or choose them; their train
            part must be the set that is trained on, in the order that the samples' indices count.
        epochs: epochs in all, for methods that change over time or train in stages; None: told by
            :meth:`expect` before the first step.
        steps: optimiser steps in all; None: progress moves from epoch to epoch.
        seed: seed of adapters and of what methods draw.
        labels: key of the targets in batches that are mappings.

    Attributes:
        student: the student as it is trained; plain, but for hooks that :meth:`deploy` removes.
        terms: what the last loss was made of, unweighted and detached; "loss" is their sum.

    Raises:
        LimbeckError: one line that says what does not fit.

    A batch is a ``limbeck.Batch``, ``(inputs, targets)``, ``(inputs, targets, index)`` or a mapping
    whose other keys are the model's arguments. Several processes share a step in equal parts.

    >>> import limbeck as lb
    >>> images, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    >>> net = lb.build_model("cnn", num_classes=10, input_shape=(1, 8, 8))
    >>> big = lb.build_model("cnn", num_classes=10, input_shape=(1, 8, 8))
    >>> distillation = lb.Distillation(net, big, lb.KD(), example=(images, labels))
    >>> loss = distillation((images, labels))
    >>> sorted(distillation.terms)
    ['kd', 'loss', 'task']
    """

    _step: StepModule
    _voice: StudentVoice

    def __init__(
        self,
        student: Any,
        teacher: Any = None,
        method: Any = "kd",
        *,
        example: Any,
        task: str | None = None,
        task_weight: float | None = None,
        forward: Forward | None = None,
        data: DataBundle | None = None,
        epochs: int | None = 1,
        steps: int | None = None,
        seed: int = 0,
        labels: str = "labels",
    ) -> None:
        super().__init__()
        self.methods: tuple[Method, ...] = as_methods(method)
        student = read_student(student)
        refuse_methods(self.methods, num_students=len(members_of(student)))
        past = any(one.teacher == "self" for one in self.methods)
        self.teachers = as_teachers(teacher, len(members_of(student)) > 1, forward, past)
        refuse_teachers(self.teachers)
        self.task = task or (data.task if data else task_of(example, labels))
        self.terms: dict[str, Tensor] = {}
        self._data, self._labels, self._steps, self._seed = data, labels, steps, seed
        device = next(student.parameters(), torch.empty(0)).device
        shown = as_batch(example, self.task, labels).to(device)
        self._ctx = Context(
            task=self.task,
            num_outputs=data.num_outputs if data else count_outputs(student, shown, forward),
            epochs=epochs or 1,
            num_members=len(members_of(student)),
            seed=seed,
            device=device,
        )
        wiring = Wiring(
            methods=self.methods,
            teachers=self.teachers,
            example=shown,
            task=self.task,
            num_outputs=self._ctx.num_outputs,
            data=data,
            task_weight=task_weight,
            forward=forward,
        )
        try:
            self._wire(student, wiring, epochs)
        except BaseException:  # what does not fit leaves no hook behind
            for one in self.teachers.values():
                one.close()
            raise

    def _wire(self, student: nn.Module, wiring: Wiring, epochs: int | None) -> None:
        ctx = self._ctx
        check_methods(wiring)
        with torch.random.fork_rng(devices=[]):  # the loop's own draws stay what they were
            torch.manual_seed(mix(self._seed, SETUP_STEP, 0))
            ctx.generator.manual_seed(torch.initial_seed())
            student, groups = prepare_student(student, wiring, ctx)
        runtimes = [runtime for group in groups for runtime in group]
        refuse_runtimes(runtimes, has_data=self._data is not None)
        step, self._voice, self.task_weight = join_step(student, groups, wiring, ctx)
        for teacher in self.teachers.values():
            check_teacher(teacher, wiring)
        self.student = student
        self.runtimes = step.runtimes
        self.__dict__["_step"] = step  # not registered: its parts are, under names of their own
        self._course = Course(step, ctx, epochs, self._data, self._seed)
        self._shaped, self._fitted, self._deployed, self._drawn = False, False, False, -1
        # Memory differs from process to process on purpose: DDP must not overwrite it.
        self._ddp_params_and_buffers_to_ignore = self.memory_names()

    # An epoch, and a step in it.

    def epoch_start(self, *optimizers: Any) -> None:
        """Where a stage begins, clear the state of the optimisers: before every epoch.

        Args:
            optimizers: all that train student and adapters. What they step by goes on as it is:
                a rate's schedule, unlike in Limbeck's own loop, is one for all stages.
        """
        self._course.enter(optimizers)

    def batches(self, size: int, *, drop_last: bool = False) -> DataLoader[Any]:
        """Return a loader over the present epoch's samples: those that methods chose, in order.

        The batches are those of Limbeck's own loop, augmentation and all: both follow from seed
        and epoch, by ``epoch_end``. Iterate anew in every epoch. Its length is that of the epoch.

        Args:
            size: samples a step, over all processes.
            drop_last: whether to leave out the smaller last step.

        Raises:
            MethodError: the data are not known.
        """
        self._settle()  # what is fitted is fitted before anything is chosen
        _ = self._course.view  # refused here where the data are not known
        self._drawn = -1  # a choice draws numbers of its own
        assert self._data is not None
        options: dict[str, Any] = {"size": size, "seed": self._seed, "drop_last": drop_last}
        return epoch_loader(EpochBatches(self._course, self._data, self._ctx, **options))

    def forward(self, batch: Any) -> Tensor:
        """Return the loss of a batch: all knowledge terms and the one task term, weighted.

        Raises:
            MethodError: a method needs the samples' index and the batch has none; the loop missed
                the beginning of a stage, or the samples that a method chose; nothing in the loss
                depends on the student; or the student was deployed.
        """
        batch = self._receive(batch)
        stage = self._course.stage
        self._ctx.stage = stage.name
        self._step.begin()
        for runtime in self._step.data_runtimes():
            batch = runtime.batch(batch, self._ctx)
        with self._attention():
            loss: Tensor
            loss, terms = self._step(batch, stage)
        if torch.is_grad_enabled():
            refuse_constant(loss, stage)
        self.terms = {name: value * self._ctx.world_size for name, value in terms.items()}
        return loss

    def before_step(self) -> None:
        """Add what methods add to gradients: after backward, before clipping and the optimiser."""
        shape_gradients(self._step, self._ctx, self._course.stage, None)
        self._shaped = True

    def after_step(self) -> None:
        """Let teachers follow the student: after every step of the optimiser.

        Raises:
            MethodError: a method changes gradients, and ``before_step`` was not called.
        """
        if self.changes_gradients and not self._shaped:
            raise MethodError(
                f"method {self.changes_gradients}: changes gradients: call before_step() between "
                "backward() and the optimiser's step"
            )
        self._shaped = False
        for teacher in self.teachers.values():
            teacher.step_end(self.student, self._ctx)
        self._ctx.step += 1
        if self._steps:
            self._ctx.progress = min(1.0, self._ctx.step / self._steps)

    def epoch_end(self) -> None:
        """Bring memories and following teachers up to date: after every epoch, by every process."""
        for runtime in self._step.each_runtime():
            runtime.synchronize(self._ctx)
            runtime.epoch_end(self._ctx)
        for teacher in self.teachers.values():
            teacher.epoch_end(self.student, self._ctx)
        self._ctx.epoch += 1
        if not self._steps:
            self._ctx.progress = min(1.0, self._ctx.epoch / self._ctx.epochs)

    def expect(self, *, steps: int | None, epochs: int) -> None:
        """Say how long training will be, where that was not known before.

        Raises:
            LimbeckError: the stages do not fit into the epochs.
        """
        self._course.lay(epochs)
        self._steps = None if self.chooses_samples else steps  # their number is not known ahead
        self._ctx.epochs = epochs

    @property
    def epoch(self) -> int:
        """Epochs that have ended."""
        return self._ctx.epoch

    @property
    def deployed(self) -> bool:
        """Whether the student was taken out."""
        return self._deployed

    @property
    def chooses_samples(self) -> str | None:
        """Name of a method that chooses the samples of epochs; None where none does."""
        return self._course.chooses

    @property
    def has_stages(self) -> bool:
        """Whether training has several stages, in which not all parameters get gradients."""
        return self._course.has_stages

    @property
    def changes_gradients(self) -> str | None:
        """Name of a method that changes gradients; None where none does."""
        for runtime in self._step.all_runtimes:
            if type(runtime).gradients is not Runtime.gradients:
                return runtime.method.name
        return None

    def synchronize(self) -> None:
        """Make memories the same in every process, before a checkpoint; all must call it."""
        for runtime in self._step.each_runtime():
            runtime.synchronize(self._ctx)

    def logits(self, batch: Any) -> Tensor:
        """Return the student's logits for a batch; of a cohort, their mean."""
        return self._voice(as_batch(batch, self.task, self._labels)).logits

    # Afterwards.

    def deploy(self) -> nn.Module:
        """Return the plain student in eval mode: no hooks, nothing that served training only.

        Teachers are given back as they were. This object cannot train any further.
        """
        self._voice.close()
        for teacher in self.teachers.values():
            teacher.close()
        self._deployed = True
        members = members_of(self.student)
        stripped = [self._step.stripped(member, index) for index, member in enumerate(members)]
        if len(stripped) == 1:
            return stripped[0].eval()
        same = all(a is b for a, b in zip(members, stripped, strict=True))
        return (self.student if same else Cohort(stripped)).eval()

    # Small things.

    def _receive(self, batch: Any) -> Batch:
        """Read a batch, and see where training stands: device, processes, generator, fitting."""
        if self._deployed:
            raise MethodError("the student was deployed and is plain: make a new Distillation")
        self._settle()
        self._course.check()
        read = as_batch(batch, self.task, self._labels).to(self._ctx.device)
        if read.index is None:
            needing = [method.name for method in self.methods if method.card.needs_index]
            if needing:
                raise MethodError(
                    f"method {needing[0]}: needs the index of each sample; wrap the data set in "
                    "limbeck.integrations.IndexedDataset"
                )
        if self._ctx.world_size > 1 and read.share == 1.0:
            part = 1.0 / self._ctx.world_size
            read = read.replace(share=part, label_share=part)
        return read

    def _settle(self) -> None:
        ctx = self._ctx
        device = next(self.student.parameters()).device
        if device != ctx.device:
            ctx.device = device
            for teacher in self.teachers.values():
                teacher.bind(self._data, device)
        self._find_world()
        if ctx.step != self._drawn:
            self._drawn = ctx.step
            ctx.generator.manual_seed(mix(self._seed, ctx.step, ctx.rank))
        if not self._fitted and self._data is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(mix(self._seed, SETUP_STEP, 0))
                for runtime in self._step.each_runtime():
                    runtime.fit(self._data, ctx)
        self._fitted = True

    def _find_world(self) -> None:
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            ctx = self._ctx
            world = World(dist.get_rank(), dist.get_world_size(), ctx.device)
            ctx.rank, ctx.world_size, ctx.sum = world.rank, world.size, world.sum
            ctx.gather = world.gather

    def _attention(self) -> AbstractContextManager[None]:
        if any(method.card.double_backward for method in self.methods):
            return twice_differentiable_attention()
        return nullcontext()
