"""Folding: the same teacher, fitted without one fold of the training part."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from limbeck.data.bundle import DataBundle
from limbeck.data.samples import digest_of
from limbeck.errors import TeacherError
from limbeck.recipe.nesting import inside
from limbeck.recipe.schema import (
    CalibratedTeacher,
    Data,
    EnsembleTeacher,
    PartialTeacher,
    Recipe,
    Teacher,
    TrainTeacher,
)
from limbeck.recipe.teacher_schema import SklearnTeacher

if TYPE_CHECKING:
    from limbeck.recipe.build import Workshop

FITTED = "a teacher that is fitted here: {train: recipe} or {sklearn: estimator}, or a calibrated"
"""What can be fitted without a fold, as messages say it."""


def check_folds(teacher: Teacher, key: str, recipe: Recipe) -> None:
    """Refuse what has nothing to fit without a fold, and methods whose samples no fold knows.

    Raises:
        TeacherError: with the key.
    """
    changing = [m.name for m in recipe.methods if m.card.data_modification != "none"]
    if changing:
        raise TeacherError(
            f"{key}: method {changing[0]} changes samples, and of a changed sample nobody can tell "
            "which fold has not seen it; use another method"
        )
    _check_fitted(teacher, key)


def _check_fitted(teacher: Teacher, key: str) -> None:
    if isinstance(teacher, TrainTeacher | SklearnTeacher):
        trained = teacher.train if isinstance(teacher, TrainTeacher) else None
        if trained is not None and trained.data.arguments.get("leave_out") is not None:
            raise TeacherError(
                f"{key}.train.data.leave_out: the folds are drawn here; leave it out"
            )
        seeing = {} if trained is None else trained.all_teachers
        for name, one in seeing.items():
            if _learned(one):
                raise TeacherError(
                    f"{key}.train: its own teacher {name!r} has learned from the samples of every "
                    "fold; give a recipe without a teacher, or whose teachers have not seen these "
                    "samples"
                )
        return
    if isinstance(teacher, CalibratedTeacher):
        _check_fitted(teacher.calibrated, f"{key}.calibrated")
    elif isinstance(teacher, EnsembleTeacher):
        for i, one in enumerate(teacher.ensemble):
            _check_fitted(one, f"{key}.ensemble.{i}")
    else:
        raise TeacherError(f"{key}: expected {FITTED} one or an ensemble of these")


def _learned(teacher: Teacher) -> bool:
    """Whether a teacher is trained or fitted by its recipe, itself or one inside it."""
    if isinstance(teacher, TrainTeacher | SklearnTeacher):
        return True
    if isinstance(teacher, PartialTeacher) and teacher.epochs:
        return True
    return any(_learned(held) for _, held in inside(teacher))


def without_fold(
    teacher: Teacher, recipe: Recipe, leave_out: Mapping[str, int], workshop: Workshop
) -> tuple[Any, DataBundle]:
    """Return a teacher whose recipe leaves out a fold, and the data that it learns on then.

    A forest learns on the data of the recipe around it, without the fold; a recipe on its own,
    which may have other labels. An ensemble's members must agree.
    """
    found: list[DataBundle] = []
    changed = _fold(teacher, recipe, leave_out, workshop, found)
    first = found[0].splits["train"]
    for other in found[1:]:
        if other.splits["train"].indices.tolist() != first.indices.tolist():
            raise TeacherError("crossfit: its teachers learn on different samples; give all one")
    return changed, found[0]


def _fold(
    teacher: Teacher,
    recipe: Recipe,
    leave_out: Mapping[str, int],
    workshop: Workshop,
    found: list[DataBundle],
) -> Any:
    if isinstance(teacher, TrainTeacher):
        inner = dataclasses.replace(teacher.train, data=_data(teacher.train.data, leave_out))
        found.append(workshop.data(inner))
        return dataclasses.replace(teacher, train=inner)
    if isinstance(teacher, CalibratedTeacher):
        held = _fold(teacher.calibrated, recipe, leave_out, workshop, found)
        return dataclasses.replace(teacher, calibrated=held)
    if isinstance(teacher, EnsembleTeacher):
        members = tuple(_fold(m, recipe, leave_out, workshop, found) for m in teacher.ensemble)
        return dataclasses.replace(teacher, ensemble=members)
    around = dataclasses.replace(recipe, data=_data(recipe.data, leave_out))
    found.append(workshop.data(around))
    return teacher


def _data(data: Data, leave_out: Mapping[str, int]) -> Data:
    return dataclasses.replace(data, arguments={**data.arguments, "leave_out": dict(leave_out)})


def refuse_other_samples(key: str, data: DataBundle, around: DataBundle) -> None:
    """Refuse a teacher that learns on other training samples than those it is to be asked about.

    Raises:
        TeacherError: with the key.
    """
    theirs, ours = data.splits["train"].samples, around.splits["train"].samples
    if theirs is not ours and digest_of(theirs) != digest_of(ours):
        raise TeacherError(
            f"{key}: learns on other training samples than the student, so none of its folds is "
            "about these; give both the same data (another choice of labels is fine)"
        )
