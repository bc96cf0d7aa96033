"""What users of other engines hand over: batches, students, methods; read and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.data.check import infer_task
from limbeck.engine.asking import StudentVoice, members_of
from limbeck.engine.plan import Wiring
from limbeck.errors import DataError, LimbeckError, RecipeError, TeacherError
from limbeck.integrations.indexed import INDEX
from limbeck.models import Cohort
from limbeck.models.calling import evaluating
from limbeck.teachers import PeersTeacher, Teacher
from limbeck.teachers.examples import check_answer

Forward = Callable[[nn.Module, Any], Any]


def as_batch(value: Any, task: str | None, labels: str = "labels") -> Batch:
    """Read a batch of another engine.

    Args:
        value: a Batch; a mapping whose key ``labels`` holds the targets and whose other keys are
            the model's keyword arguments; or ``(inputs, targets)``, ``(inputs, targets, index)``.
        task: the task, which decides the form of the targets; None: they stay as they are.
        labels: key of the targets in a mapping.

    Raises:
        DataError: something else; soft labels for a classification.
    """
    if isinstance(value, Batch):
        return value
    index: Any = None
    if isinstance(value, Mapping):
        inputs: Any = dict(value)
        targets, index = inputs.pop(labels, None), inputs.pop(INDEX, None)
    elif isinstance(value, tuple | list) and len(value) in (2, 3):
        inputs, targets = value[0], value[1]
        index = value[2] if len(value) == 3 else None
    else:
        raise DataError(
            f"batch: expected (inputs, targets), (inputs, targets, index), a mapping with "
            f"{labels!r} or a limbeck.Batch, got {type(value).__name__}"
        )
    if targets is not None:
        targets = _formed(torch.as_tensor(targets), task)
    return Batch(inputs, targets, None if index is None else torch.as_tensor(index))


def _formed(targets: Tensor, task: str | None) -> Tensor:
    """Return targets as losses read them: class indices, or float rows."""
    if task is None:
        return targets
    if task == "classification":
        flat = targets[:, 0] if targets.dim() == 2 and targets.shape[1] == 1 else targets
        if flat.dim() != 1:
            raise DataError(
                f"batch: targets of shape {list(targets.shape)} for classification; expected one "
                "class index for each sample; of mixtures (mixup, cutmix) give -100, no label, "
                "and learn from the teacher alone"
            )
        return flat.long()
    rows = targets[:, None] if targets.dim() == 1 else targets
    return rows if rows.is_floating_point() else rows.float()


def read_student(student: Any) -> nn.Module:
    """Return the module to train; of a list of modules, a cohort."""
    if isinstance(student, list | tuple):
        return Cohort(student)
    if isinstance(student, nn.Module):
        return student
    raise RecipeError(f"student: expected a module or a list, got {type(student).__name__}")


def task_of(example: Any, labels: str) -> str:
    """Guess the task from the targets of a batch."""
    targets = as_batch(example, None, labels).targets
    if targets is not None and _are_shares(targets):
        raise DataError(
            f"example: the rows of its targets {list(targets.shape)} sum to 1, as soft labels do; "
            'say the task: task="classification" takes class indices, task="regression" these'
        )
    return "classification" if targets is None else infer_task(targets)


def _are_shares(targets: Tensor) -> bool:
    """Whether targets are distributions over several classes, and not all sure of one."""
    if targets.dim() != 2 or targets.shape[1] < 2 or not targets.is_floating_point():
        return False
    inside = bool(((targets >= 0) & (targets <= 1)).all()) and bool(targets.frac().any())
    return inside and torch.allclose(targets.sum(dim=1), targets.new_ones(len(targets)), atol=1e-3)


def count_outputs(student: nn.Module, example: Batch, forward: Forward | None) -> int:
    """Return how many outputs the student gives for each sample."""
    if len(example) < 2:
        raise DataError(f"example: expected at least two samples, got {len(example)}")
    voice = StudentVoice(student, [()] * len(members_of(student)), forward=forward)
    try:
        with evaluating(student):
            shape = list(voice.logits(example)[0].shape)
    except LimbeckError:
        raise
    except Exception as error:  # whatever a stranger's forward raises
        reason = str(error).strip().split("\n")[0]
        raise RecipeError(f"student: cannot read the example: {reason}") from error
    finally:
        voice.close()
    if len(shape) != 2 or shape[0] != len(example):
        raise RecipeError(
            f"student: gives outputs of shape {shape} for {len(example)} samples; expected "
            f"[{len(example)}, classes]"
        )
    return int(shape[1])


def check_teacher(teacher: Teacher, wiring: Wiring) -> None:
    """Ask a teacher about the example: it must read it, and know the same classes."""
    if isinstance(teacher, PeersTeacher) or wiring.data is not None:
        return  # with data, bind has done it
    _check_statistics(teacher)
    try:
        said = teacher.ask(wiring.example)
    except LimbeckError:
        raise
    except Exception as error:  # whatever a stranger's forward raises
        reason = str(error).strip().split("\n")[0]
        raise TeacherError(f"teachers.{teacher.name}: cannot read the example: {reason}") from error
    check_answer(teacher.name, said, len(wiring.example), wiring.num_outputs)


def _check_statistics(teacher: Any) -> None:
    """Refuse statistics of a teacher's own where those of the student's inputs are not known."""
    for inner in [*getattr(teacher, "members", ()), getattr(teacher, "inner", None)]:
        if inner is not None:
            _check_statistics(inner)
    if getattr(teacher, "normalization", None) is not None:
        raise TeacherError(
            f"teachers.{teacher.name}.normalization: the statistics of this loop's inputs are not "
            "known; pass data=..., or re-normalise inside the teacher's forward and leave it out"
        )
