"""What a plan cannot be, said before the first step: methods, teachers and students that clash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from limbeck.data.batch import first_tensor
from limbeck.engine.asking import StudentVoice, members_of
from limbeck.engine.plan import Wiring
from limbeck.engine.step import pick_teacher
from limbeck.errors import LimbeckError, MethodError, ModelError, RecipeError
from limbeck.methods.base import Method
from limbeck.models.hf import check_vocabulary
from limbeck.models.pretrained_config import size_hint

if TYPE_CHECKING:
    from limbeck.data import DataBundle


def check_methods(wiring: Wiring) -> None:
    """Refuse methods that cannot serve this task, teacher or student: what the Cards say."""
    for method in wiring.methods:
        card = method.card
        if wiring.task not in card.tasks:
            raise MethodError(
                f"method {method.name}: serves {', '.join(card.tasks)}, not {wiring.task}"
            )
        classes = wiring.num_outputs
        if wiring.task == "classification" and classes < card.min_classes:
            raise MethodError(
                f"method {method.name}: needs at least {card.min_classes} classes, "
                f"the data have {classes}"
            )
        if card.max_classes is not None and classes > card.max_classes:
            raise MethodError(
                f"method {method.name}: is quadratic in classes, at most {card.max_classes}; "
                f"the data have {classes}"
            )
        if card.double_backward and wiring.compile:
            raise RecipeError(
                f"train.compile: method {method.name} takes second derivatives, "
                "which compiled modules cannot give; set train.compile=false"
            )
        if card.needs_teacher:
            _check_teacher(method, wiring)
    if wiring.data is not None:
        refuse_mixed(wiring.methods, wiring.data)


def refuse_mixed(methods: Sequence[Method], data: DataBundle) -> None:
    """Refuse methods that need what mixed samples do not have: labels, and a place in the set."""
    if not data.augment_train.steps.mixup:
        return
    for method in methods:
        if method.card.supervision == "labels":
            raise MethodError(
                f"data.augment: mixup leaves no sample its label, which method {method.name} "
                "needs; leave mixup out, or use a method that learns from the teacher alone (kd)"
            )
        told = method.of_each_sample or ("chooses samples" if method.card.selects else "")
        if told:
            raise MethodError(
                f"data.augment: mixup shows mixtures of two samples, and method {method.name} "
                f"{told}; leave one of them out"
            )
    if not any(method.card.needs_teacher for method in methods):
        raise MethodError("data.augment: mixup leaves no sample its label, and no teacher is asked")


def _check_teacher(method: Method, wiring: Wiring) -> None:
    if not wiring.teachers:
        raise MethodError(f"method {method.name}: needs a teacher, and there is none")
    name = pick_teacher(wiring.teachers, method.teacher)
    teacher = wiring.teachers[name]
    refuse_temperature(method, teacher.only_temperature, name)
    refuse_gradients(method, teacher.gives_gradients, name)
    if not teacher.can_give(method.card.teacher_access):
        raise MethodError(
            f"method {method.name}: asks teacher {name!r} for {method.card.teacher_access}, but "
            f"it gives {teacher.access} only; use a live model as teacher"
        )


def refuse_temperature(method: Method, only: float | None, teacher: str) -> None:
    """Refuse a method whose temperature is not the one that its teacher's cache was made at.

    Args:
        method: a method that asks the teacher.
        only: the one temperature at which the teacher can be asked; None: any.
        teacher: its name.
    """
    wanted = getattr(method, "temperature", None)
    if only is not None and wanted is not None and wanted != only:
        raise MethodError(
            f"method {method.name}: temperature {wanted:g}, but the cache of teacher {teacher!r} "
            f"keeps probabilities at temperature {only:g}; set method.temperature={only:g}, or "
            f"the cache's codec.temperature={wanted:g}"
        )


def refuse_gradients(method: Method, gives: bool, teacher: str) -> None:
    """Refuse a method that asks for gradients each step, of a teacher that was to be asked once."""
    if method.teacher_gradients and not gives:
        way = "set method.frozen=true, or " if hasattr(method, "frozen") else ""
        raise MethodError(
            f"method {method.name}: asks teacher {teacher!r} for gradients, which a cache does not "
            f"keep: it would be asked in every step; {way}use the teacher without the cache"
        )


def refuse_kept_epochs(epochs: Sequence[int], num_students: int) -> None:
    """Refuse to keep epochs of a cohort: which member they would deploy is known at the end."""
    if epochs and num_students > 1:
        raise RecipeError(
            "checkpoints.keep_epochs: of a cohort no epoch is kept: which of the "
            f"{num_students} students is deployed is known at the end; leave it out, or train one"
        )


def check_student(student: nn.Module, wiring: Wiring) -> None:
    """Run the student once on two samples: it must read them, and give as many outputs as wanted.

    Raises:
        RecipeError: it cannot be run, has other outputs, or nothing that could be trained.
    """
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise RecipeError("student: has no trainable parameters (requires_grad is False on all)")
    vocabulary = None if wiring.data is None else wiring.data.vocabulary
    for member in members_of(student):
        try:
            check_vocabulary(member, vocabulary)
        except ModelError as error:
            raise RecipeError(f"student: {error}") from error
    example = wiring.example
    modes = [(part, part.training) for part in student.modules()]
    student.eval()
    voice = StudentVoice(student, [()] * len(members_of(student)), forward=wiring.forward)
    try:
        with torch.no_grad():
            shapes = [tuple(logits.shape) for logits in voice.logits(example)]
    except LimbeckError:
        raise
    except Exception as error:  # whatever a stranger's forward raises
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise RecipeError(
            f"student: cannot read inputs of shape {list(first_tensor(example.inputs).shape)} "
            f"({first_tensor(example.inputs).dtype}): {reason}{size_hint(members_of(student)[0])}"
        ) from error
    finally:
        voice.close()
        for part, mode in modes:
            part.training = mode
    wanted = (len(example), wiring.num_outputs)
    for shape in shapes:
        if shape != wanted:
            one_logit = shape == (len(example), 1) and wiring.num_outputs == 2
            raise RecipeError(
                f"student: gives outputs of shape {shape} for {len(example)} samples; the data "
                f"have {wiring.num_outputs} classes, so expected {wanted}"
                + (" (one logit a class, for two classes too)" if one_logit else "")
            )
