"""Putting a plan together: student, teachers, taps and runtimes, checked before the first step."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from limbeck.data import seed_everything_for_step
from limbeck.data.batch import Batch, first_tensor
from limbeck.engine.asking import StudentVoice, members_of
from limbeck.engine.checking import check_methods, check_student, refuse_kept_epochs
from limbeck.engine.distributed import World
from limbeck.engine.plan import Plan, Wiring
from limbeck.engine.probing import check_probe
from limbeck.engine.step import StepModule, pick_teacher
from limbeck.engine.trackers import check_trackers
from limbeck.errors import MethodError, RecipeError
from limbeck.methods.base import Method, Runtime, Stage
from limbeck.methods.compose import default_task_weight
from limbeck.methods.context import Context
from limbeck.methods.layers import refuse_unlearned
from limbeck.models.calling import make_attention_eager
from limbeck.taps.outputs import Outputs
from limbeck.teachers.base import Teacher
from limbeck.teachers.peers import PeersTeacher
from limbeck.teachers.visits import Visits

if TYPE_CHECKING:
    from limbeck.data import DataBundle, View

SETUP_STEP = -1  # the "step" under whose seed students and adapters are initialised


@dataclass
class Assembly:
    """The parts of a run, wired.

    Attributes:
        student: the student, or cohort, on its device.
        module: the step's loss as one module over student and runtimes.
        voice: runs the student with all taps.
        teachers: teachers by name, bound.
        ctx: the context that seams see.
        stages: phases of training in order, their epochs filled in.
        task_weight: weight of the task term.
        average: the student's moving average, where there is one.
    """

    student: nn.Module
    module: StepModule
    voice: StudentVoice
    teachers: Mapping[str, Teacher]
    ctx: Context
    stages: tuple[Stage, ...]
    task_weight: float
    average: AveragedModel | None = None

    @property
    def runtimes(self) -> list[Runtime]:
        """All runtimes, member by member."""
        return self.module.all_runtimes

    def close(self) -> None:
        """Remove hooks and let the teachers go."""
        self.voice.close()
        for teacher in self.teachers.values():
            teacher.close()


def assemble(plan: Plan, world: World) -> Assembly:
    """Build student, teachers and runtimes from a plan, the same on every rank.

    Raises:
        LimbeckError: what does not fit, in one line, before anything is trained.
    """
    visits = visits_of(plan, world)
    wiring = wiring_of(plan, world.device, visits.rows)
    check_methods(wiring)
    if plan.probe is not None:
        check_probe(plan.probe, plan.data)
    check_trackers(plan.trackers)
    seed_everything_for_step(plan.seed, SETUP_STEP, 0)
    student = plan.make_student().to(world.device)
    refuse_kept_epochs(plan.checkpoints.keep_epochs, len(members_of(student)))
    if any(method.card.double_backward for method in plan.methods):
        make_attention_eager(student)  # until the student is deployed
    if plan.train.channels_last:
        student = student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ctx = Context(
        task=plan.data.task,
        num_outputs=plan.data.num_outputs,
        epochs=plan.train.epochs,
        num_members=len(members_of(student)),
        seed=plan.seed,
        rank=world.rank,
        world_size=world.size,
        device=world.device,
        sum=world.sum,
        forward=plan.forward,
        gather=world.gather,
    )
    ctx.generator.manual_seed(torch.initial_seed())
    for name, teacher in plan.teachers.items():
        teacher.name = name
        teacher.foresee(visits)
    student, runtimes = prepare_student(student, wiring, ctx)
    average = make_average(student, plan.train.ema)  # a copy, made before there are hooks
    module, voice, weight = join_step(student, runtimes, wiring, ctx)
    stages = plan_stages(runtimes[0], plan.train.epochs)
    return Assembly(student, module, voice, plan.teachers, ctx, stages, weight, average)


def wiring_of(plan: Plan, device: torch.device, rows: int) -> Wiring:
    """Return what of a plan is wired together before the loop begins."""
    return Wiring(
        methods=plan.methods,
        teachers=plan.teachers,
        example=example_batch(plan, device),
        task=plan.data.task,
        num_outputs=plan.data.num_outputs,
        data=plan.data,
        task_weight=plan.task_weight,
        forward=plan.forward,
        compile=plan.train.compile,
        rows=rows,
    )


def prepare_student(
    student: nn.Module, wiring: Wiring, ctx: Context
) -> tuple[nn.Module, list[list[Runtime]]]:
    """Let teachers and methods meet the student.

    Returns:
        the student, changed where a method changes it; and for each member, its runtimes.
    """
    for name, teacher in wiring.teachers.items():
        teacher.name = name
        teacher.bind(wiring.data, ctx.device)
    check_student(student, wiring)
    known = set(student.modules())
    modes = [member.training for member in members_of(student)]
    runtimes = _prepare(wiring, student, ctx)
    changed = _changed_student(student, runtimes).to(ctx.device)
    for member, mode in zip(members_of(changed), modes, strict=True):
        for part in set(member.modules()) - known:
            part.training = mode  # made while the student was in eval mode
    if changed is not student:
        check_student(changed, wiring)
    for teacher in wiring.teachers.values():
        teacher.meet(changed)
    return changed, runtimes


def join_step(
    student: nn.Module, runtimes: Sequence[Sequence[Runtime]], wiring: Wiring, ctx: Context
) -> tuple[StepModule, StudentVoice, float]:
    """Put the taps on student and teachers, and make the step's loss one module.

    Returns:
        the module, the student's voice with all taps, and the weight of the task term.
    """
    graph = _announce_taps(wiring, runtimes)
    taps = [[tap for runtime in group for tap in runtime.student_taps()] for group in runtimes]
    voice = StudentVoice(
        student,
        taps,
        forward=wiring.forward,
        compile=wiring.compile,
        require_grad=any(method.student_gradients for method in wiring.methods),
    )
    weight = wiring.task_weight
    weight = default_task_weight(wiring.methods) if weight is None else weight
    module = StepModule(
        student,
        runtimes,
        voice=voice,
        teachers=wiring.teachers,
        ctx=ctx,
        task_weight=weight,
        with_graph=graph,
        rows=wiring.rows,
    ).to(ctx.device)
    return module, voice, weight


def visits_of(plan: Plan, world: World) -> Visits:
    """Return how this run will look at its training samples."""
    train = plan.train
    slices = world.size * train.accumulate
    return Visits(
        seed=plan.seed,
        views=train.views,
        epochs=train.epochs,
        rows=math.ceil(min(train.batch_size, len(training_view(plan.data, plan.methods))) / slices),
        channels_last=train.channels_last,
        compile=train.compile,
        changing=tuple(m.name for m in plan.methods if m.card.data_modification != "none"),
        rank=world.rank,
        world_size=world.size,
        barrier=world.barrier,
        lead=world.lead,
    )


def make_average(student: nn.Module, decay: float | None) -> AveragedModel | None:
    """Return the exponential moving average of a student; None without a decay."""
    if decay is None:
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(student, multi_avg_fn=average)


def example_batch(plan: Plan, device: torch.device, size: int = 2) -> Batch:
    """Return the first few training samples as evaluation would show them."""
    view = plan.data.splits["train"]
    raw = view.fetch(torch.arange(min(size, len(view))))
    assert raw.index is not None
    return raw.replace(inputs=plan.data.augment_eval(raw.inputs, raw.index)).to(device)


def some_samples(wiring: Wiring, count: int) -> Batch:
    """Return up to ``count`` training samples, evenly spread, as evaluation would show them.

    Where the data are another engine's: the example.
    """
    data, device = wiring.data, first_tensor(wiring.example.inputs).device
    if data is None:
        return wiring.example
    view = data.splits["train"]
    index = torch.linspace(0, len(view) - 1, min(count, len(view))).long()
    raw = view.fetch(index)
    assert raw.index is not None
    return raw.replace(inputs=data.augment_eval(raw.inputs, raw.index)).to(device)


def _prepare(wiring: Wiring, student: nn.Module, ctx: Context) -> list[list[Runtime]]:
    """Let every method build its runtime for every member, able to ask models meanwhile.

    One that changes the student comes first, wherever it stands: the others are given, and keep
    hold of, the changed one.
    """
    methods = wiring.methods
    order = sorted(range(len(methods)), key=lambda place: not methods[place].card.replaces_student)
    example = wiring.example
    groups: list[list[Runtime]] = []
    for index, member in enumerate(members_of(student)):
        ctx.member, ctx.example = index, example
        ctx.samples = functools.partial(some_samples, wiring)
        group: dict[int, Runtime] = {}
        for place in order:
            group[place] = _prepare_one(methods[place], member, wiring, ctx)
            member = group[place].student or member
        groups.append([group[place] for place in range(len(methods))])
    ctx.example, ctx.samples = None, Context.samples
    return groups


def _prepare_one(method: Method, member: nn.Module, wiring: Wiring, ctx: Context) -> Runtime:
    """Let one method build its runtime, the student in eval mode and without gradients."""
    voice = StudentVoice(member, [()], forward=wiring.forward)
    ctx.student = voice.ask
    modes = [(part, part.training) for part in member.modules()]
    member.eval()
    try:
        with torch.no_grad():
            return method.prepare(member, wiring.teachers, wiring.data, ctx)
    finally:
        voice.close()
        for part, mode in modes:
            part.training = mode


def _changed_student(student: nn.Module, groups: Sequence[Sequence[Runtime]]) -> nn.Module:
    """Take over a student that a method changed for good; one method at most may do so."""
    changed = [runtime for group in groups for runtime in group if runtime.student is not None]
    if not changed:
        return student
    for method in (runtime.method for runtime in changed):
        if not method.card.replaces_student:
            raise MethodError(
                f"method {method.name}: changes the student, and its card does not say so: give it "
                "changes_student=True, so that the methods beside it see the changed one"
            )
    if len(changed) > 1 or len(groups) > 1:
        names = ", ".join(sorted({runtime.method.name for runtime in changed}))
        raise MethodError(f"method: {names}: only one method may change the student, and no cohort")
    assert changed[0].student is not None
    return changed[0].student


def _announce_taps(wiring: Wiring, groups: Sequence[Sequence[Runtime]]) -> frozenset[str]:
    """Tell each teacher all taps wanted of it; return those whose pass should keep a graph."""
    wanted: dict[str, list[str]] = {name: [] for name in wiring.teachers}
    graph: dict[str, bool] = {}
    for runtime in (runtime for group in groups for runtime in group):
        method = runtime.method
        if not method.card.needs_teacher:
            continue
        name = pick_teacher(wiring.teachers, method.teacher)
        new = [tap for tap in runtime.teacher_taps() if tap not in wanted[name]]
        wanted[name] += new
        if method.teacher_gradients:
            graph[name] = True
    for name, taps in wanted.items():
        if not isinstance(wiring.teachers[name], PeersTeacher):
            wiring.teachers[name].set_taps(taps)
    return frozenset(graph)


def plan_stages(
    runtimes: Sequence[Runtime], epochs: int, *, key: str = "train.epochs"
) -> tuple[Stage, ...]:
    """Lay the stages of the one method that has some over the epochs.

    Args:
        runtimes: the methods at work, for one student.
        epochs: in all.
        key: what the user calls them.

    Raises:
        MethodError: two methods have stages.
        RecipeError: there are fewer epochs than stages.
    """
    laid = [(runtime.method.name, runtime.stages(epochs)) for runtime in runtimes]
    asked = [(name, stages) for name, stages in laid if stages]
    if not asked:
        return (Stage(name="train", epochs=epochs),)
    if len(asked) > 1:
        names = " and ".join(name for name, _ in asked)
        raise MethodError(f"method: {names} both train in stages; use one of them")
    name, stages = asked[0]
    left = epochs - sum(stage.epochs or 0 for stage in stages)
    open_ended = [stage for stage in stages if stage.epochs is None]
    if len(open_ended) > 1 or left < len(open_ended):
        needed = sum(stage.epochs or 1 for stage in stages)
        raise RecipeError(f"{key}: the stages of {name} need at least {needed}, got {epochs}")
    return tuple(
        stage if stage.epochs is not None else _with_epochs(stage, left) for stage in stages
    )


def _with_epochs(stage: Stage, epochs: int) -> Stage:
    return dataclasses.replace(stage, epochs=epochs)


def training_view(data: DataBundle, methods: Sequence[Method]) -> View:
    """Return the training samples; without unlabelled ones where no method has a use for them."""
    view = data.splits["train"]
    if any(method.card.needs_teacher for method in methods):
        return view
    if bool(view.labelled.all()):
        return view
    return view.select(view.indices[view.labelled])


def fit_runtimes(assembly: Assembly, data: DataBundle) -> None:
    """Let every runtime fit on training data, under the set-up seed."""
    ctx = assembly.ctx
    for runtime in assembly.module.each_runtime():
        ask = ctx.teacher
        ctx.teacher = functools.partial(_ask_learned, ask, assembly.teachers, runtime.method.name)
        runtime.fit(data, ctx)
        ctx.teacher = ask


def _ask_learned(
    ask: Any, teachers: Mapping[str, Teacher], method: str, batch: Any, name: Any = None, **how: Any
) -> Outputs:
    """Ask a teacher in ``fit``; refuse one that begins to learn after it."""
    name = pick_teacher(teachers, name)
    refuse_unlearned(method, teachers[name], "is fitted to its teacher")
    said: Outputs = ask(batch, name, **how)
    return said
