"""Building: from a validated recipe to a Plan of objects that the engine can run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.data.bundle import DataBundle
from limbeck.data.registry import load_data
from limbeck.engine.known_answers import KnownAnswers
from limbeck.engine.plan import Plan
from limbeck.errors import DataError, LimbeckError, RecipeError
from limbeck.models import Cohort, build_model, model_spec
from limbeck.models.hf import with_vocabulary
from limbeck.recipe.checks import check_data, check_recipe
from limbeck.recipe.nesting import inside
from limbeck.recipe.resolved import recipe_digest, resolved
from limbeck.recipe.schema import Data, Recipe, StudentModel, TrainTeacher
from limbeck.recipe.teacher_store import Store

Say = Callable[[str], None]


def _silent(line: str) -> None:
    """Say nothing."""


class Workshop:
    """What building a recipe, and the recipes of its teachers, has in common.

    Args:
        store: where trained teachers are kept.
        allow_code: whether ``py:`` models may come from code that is not installed.
        train: whether teachers that are not in the store may be trained now.
        say: gets a line for a person now and then.
        quiet: whether training teachers prints nothing.
        answers: shared by the plans that are built; None: nothing is.
    """

    def __init__(
        self,
        store: Store,
        *,
        allow_code: bool = False,
        train: bool = True,
        say: Say = _silent,
        quiet: bool = False,
        answers: KnownAnswers | None = None,
    ) -> None:
        self.store = store
        self.answers = answers
        self.allow_code = allow_code
        self.train = train
        self.say = say
        self.quiet = quiet
        self._bundles: dict[str, DataBundle] = {}
        self._epochs: dict[str, set[int]] = {}

    def data(self, recipe: Recipe) -> DataBundle:
        """Return the data of a recipe; the same data are loaded once."""
        return self._read(recipe.data)

    def probe(self, recipe: Recipe) -> DataBundle | None:
        """Return the data on which a recipe tries the student's features, where it names some."""
        if recipe.probe is None:
            return None
        with at("probe"):
            return self._read(recipe.probe)

    def _read(self, data: Data) -> DataBundle:
        options = dict(data.arguments)
        key = json.dumps([data.name, options], sort_keys=True)
        if key not in self._bundles:
            self._bundles[key] = _load(data.name, options)
        return self._bundles[key]

    def foresee_epochs(self, recipe: Recipe) -> None:
        """Note the epochs that teachers of a recipe are asked for, however deep they stand.

        So a run that several teachers are taken from keeps the epochs of all, and is trained once.
        """
        for teacher in recipe.all_teachers.values():
            self._foresee(teacher)

    def _foresee(self, teacher: Any) -> None:
        if isinstance(teacher, TrainTeacher):
            if teacher.epoch is not None:
                digest = recipe_digest(resolved(teacher.train))
                self._epochs.setdefault(digest, set()).add(teacher.epoch)
            self.foresee_epochs(teacher.train)
        for _, held in inside(teacher):
            self._foresee(held)

    def epochs_of(self, recipe: Recipe) -> set[int]:
        """Return the epochs that are known to be asked of the run of a recipe."""
        return set(self._epochs.get(recipe_digest(resolved(recipe)), ()))


def build_plan(
    recipe: Recipe,
    *,
    store: str | Path | None = None,
    allow_code: bool = False,
    train_teachers: bool = True,
    say: Say = _silent,
    quiet: bool = False,
) -> Plan:
    """Turn a recipe into a Plan. Teachers that are recipes are trained first, or found again.

    Args:
        recipe: a validated recipe.
        store: folder of trained teachers; None: ``$LIMBECK_HOME/teachers``, or ``runs/teachers``.
        allow_code: also import models from code that is not installed.
        train_teachers: False to build around untrained teachers of the right form instead of
            training those that are missing: for a look at the plan.
        say: gets a line for a person now and then (warnings, which teacher is trained where).
        quiet: print nothing while teachers are trained.

    Raises:
        LimbeckError: in one line, before anything is trained where that can be known.
    """
    workshop = Workshop(
        Store(store), allow_code=allow_code, train=train_teachers, say=say, quiet=quiet
    )
    for warning in check_recipe(recipe):
        say(f"warning: {warning}")
    workshop.foresee_epochs(recipe)
    return plan_with(workshop, recipe)


def plan_with(workshop: Workshop, recipe: Recipe, key: str = "") -> Plan:
    """Build a plan with the tools of a workshop.

    Args:
        workshop: tools and settings.
        recipe: what to build.
        key: where the recipe stands, if it is that of a teacher.
    """
    from limbeck.recipe.build_teachers import build_teachers

    data = workshop.data(recipe)
    for warning in check_data(recipe, data):
        workshop.say(f"warning: {warning}")
    with at("student"), same_random_numbers():
        make_student, spec = _student(recipe, data, workshop.allow_code)
        make_student()  # what cannot be built is refused before any teacher is trained
    return Plan(
        name=recipe.name,
        data=data,
        make_student=make_student,
        methods=recipe.methods,
        teachers=build_teachers(workshop, recipe, data, key),
        task_weight=recipe.task.weight,
        train=recipe.train,
        checkpoints=recipe.checkpoints,
        seed=recipe.seed,
        student_spec=spec,
        recipe=resolved(recipe),
        cohort=recipe.deploy,
        trackers=recipe.trackers,
        probe=workshop.probe(recipe),
        answers=workshop.answers,
    )


def _load(name: str, options: Mapping[str, Any]) -> DataBundle:
    try:
        return load_data(name, **options)
    except (TypeError, ValueError) as error:
        if isinstance(error, LimbeckError):
            raise
        raise DataError(f"data {name!r} with {dict(options)!r}: {error}") from error


def _student(
    recipe: Recipe, data: DataBundle, allow_code: bool
) -> tuple[Callable[[], nn.Module], Any]:
    """Return how to make the student, and how to rebuild it from its folder."""
    makers = [maker_of(student, data, allow_code) for student in recipe.students]
    specs = [_spec(student, data) for student in recipe.students]
    if recipe.is_cohort:
        return lambda: Cohort([make() for make in makers]), specs
    return makers[0], specs[0]


def maker_of(student: StudentModel, data: DataBundle, allow_code: bool) -> Callable[[], nn.Module]:
    """Return what builds a network that is to be trained on these data."""
    return lambda: build_model(
        student.model,
        num_classes=data.num_outputs,
        input_shape=data.input_shape,
        allow_code=allow_code,
        **with_vocabulary(student.model, student.arguments, data.vocabulary),
    )


def _spec(student: StudentModel, data: DataBundle) -> dict[str, Any]:
    from limbeck.models import read_spec
    from limbeck.recipe.arguments import is_path

    if is_path(student.model):  # a folder to start from: rebuild what it describes
        return {key: value for key, value in read_spec(student.model).items() if key in _SPEC}
    return model_spec(
        student.model,
        num_classes=data.num_outputs,
        input_shape=data.input_shape,
        **with_vocabulary(student.model, student.arguments, data.vocabulary),
    )


_SPEC = ("model", "arguments", "num_classes", "input_shape")


@contextlib.contextmanager
def same_random_numbers(seed: int | None = None) -> Iterator[None]:
    """Leave torch's generator as it was; inside, seeded where a seed is given."""
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def at(key: str) -> Iterator[None]:
    """Put the dotted key before the message of an error."""
    try:
        yield
    except LimbeckError as error:
        if str(error).startswith(key):
            raise
        raise RecipeError(f"{key}: {error}") from error
