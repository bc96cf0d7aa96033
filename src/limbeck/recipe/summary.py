"""Summary: the few lines that say what a run will do, before its first step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from limbeck.data.bundle import DataBundle
from limbeck.engine.coupling import coupling_text, num_processes
from limbeck.engine.plan import Plan
from limbeck.engine.settings import Optimizer, Schedule, Train
from limbeck.engine.threads import choose_threads
from limbeck.methods.compose import default_task_weight
from limbeck.models import count_parameters
from limbeck.teachers.base import Teacher


def describe_plan(plan: Plan) -> list[str]:
    """Return the lines "label: text" that stand before the first step.

    They name the data and its parts, teachers, student and sizes, the method terms with their
    weights, the task weight and whose default it is, optimiser, schedule, seed and precision.
    """
    sizes = {name: _parameters(teacher) for name, teacher in plan.teachers.items()}
    lines = [("data", _data(plan.data))]
    for name, teacher in plan.teachers.items():
        label = name if name in ("teacher", "peers") else f"teacher {name}"
        text = _teacher(teacher, sizes[name]).removeprefix(f"{name}: ")
        lines.append((label, "; ".join(filter(None, [text, teacher.reads(plan.data)]))))
    student = _make_student(plan)
    lines.append(("student", _student(plan, student, sizes)))
    lines += [("method", method.describe()) for method in plan.methods]
    lines.append(("task weight", _task_weight(plan)))
    lines.append(("training", _training(plan.train)))
    processes = num_processes()
    if cut := coupling_text(plan, student, processes):
        lines.append(("processes" if processes > 1 else "micro-batches", cut))
    lines.append(("optimiser", _optimizer(plan.train.optimizer)))
    lines.append(("schedule", _schedule(plan.train.schedule)))
    lines.append(("seed", _seed(plan)))
    if hint := _faster(plan.train, student):
        lines.append(("hint", hint))
    width = max(len(label) for label, _ in lines)
    return [f"{label:<{width}}  {text}" for label, text in lines]


def _data(data: DataBundle) -> str:
    return data.describe().removeprefix("data: ")


def _parameters(teacher: Teacher) -> int:
    return 0 if teacher.module is None else count_parameters(teacher.module)


def _teacher(teacher: Teacher, parameters: int) -> str:
    text = teacher.describe().split(";")[0]  # its inputs: ``reads``
    counted = f"{parameters:,}"
    return text if not parameters or counted in text else f"{text}, {counted} parameters"


def _make_student(plan: Plan) -> nn.Module:
    """Build a student to look at, without touching the random numbers of the run."""
    with torch.random.fork_rng(devices=[]):
        return plan.make_student()


def _student(plan: Plan, student: nn.Module, teachers: Mapping[str, int]) -> str:
    members = getattr(student, "members", None)
    specs = plan.student_spec
    listed = [specs] if isinstance(specs, Mapping) else list(specs or [])
    names = [str(spec["model"]) for spec in listed] or [type(student).__name__]
    count = count_parameters(student)
    text = f"{' + '.join(names)}, {count:,} parameters"
    if members is not None:
        text = f"cohort of {len(members)} ({text}); deployed: {plan.cohort}"
    largest = max(teachers.values(), default=0)
    if largest and count:
        smaller = largest >= count
        factor = largest / count if smaller else count / largest
        text += f" ({factor:.1f}x {'smaller' if smaller else 'larger'} than the teacher)"
    growing = [method.name for method in plan.methods if method.card.deploys == "grown"]
    return text + (f"; {', '.join(growing)} adds parts that stay" if growing else "")


def _task_weight(plan: Plan) -> str:
    if plan.task_weight is not None:
        return f"{plan.task_weight:g} (as the recipe says)"
    weight = default_task_weight(plan.methods)
    return f"{weight:g} (default of {plan.methods[0].name})"


def _training(train: Train) -> str:
    epochs = f"{train.epochs} epoch{'' if train.epochs == 1 else 's'}"
    parts = [f"{epochs}, batch size {train.batch_size}"]
    if train.accumulate > 1:
        parts.append(f"in {train.accumulate} micro-batches")
    if train.ema is not None:
        parts.append(f"moving average {train.ema:g}")
    if train.clip_norm is not None:
        parts.append(f"gradient norm at most {train.clip_norm:g}")
    return ", ".join([*parts, f"keeps {train.deploy}"])


def _optimizer(optimizer: Optimizer) -> str:
    parts = [f"{optimizer.name}, lr {optimizer.lr:g}"]
    if optimizer.name == "sgd":
        nesterov = " (nesterov)" if optimizer.nesterov else ""
        parts.append(f"momentum {optimizer.momentum:g}{nesterov}")
    else:
        parts.append(f"betas {optimizer.betas[0]:g} and {optimizer.betas[1]:g}")
    return ", ".join([*parts, f"weight decay {optimizer.weight_decay:g}"])


def _schedule(schedule: Schedule) -> str:
    text: str = schedule.name
    if schedule.name == "multistep":
        text += f" at {', '.join(f'{m:g}' for m in schedule.milestones)} by {schedule.gamma:g}"
    elif schedule.name in ("cosine", "linear"):
        text += f" to {schedule.final:g} of the peak"
    if schedule.warmup_epochs:
        text += f", warm-up over {schedule.warmup_epochs:g} epochs"
    if schedule.cycles > 1:
        text += f", {schedule.cycles} times"
    return text


def _faster(train: Train, student: nn.Module) -> str:
    """Return what would make the run faster at no cost but last bits; measured on CPUs alone."""
    if train.channels_last or torch.cuda.is_available():
        return ""
    if not any(isinstance(module, nn.Conv2d) for module in student.modules()):
        return ""
    return "train.channels_last=true makes convolutions faster, here likely by 1.1 to 1.7 times"


def _seed(plan: Plan) -> str:
    train = plan.train
    threads, source = choose_threads(train.threads)
    gpu = torch.cuda.is_available()
    device = f"cuda ({torch.cuda.get_device_name()})" if gpu else "cpu"
    parts = [str(plan.seed), train.precision, device]
    text = f"{threads} thread{'' if threads == 1 else 's'}"
    parts.append(text if num_processes() == 1 else f"{text} a process ({source})")
    parts += ["channels-last"] * train.channels_last + ["compiled"] * train.compile
    return ", ".join(parts)
