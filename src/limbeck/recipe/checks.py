"""Checks across the parts of a recipe, made before anything is trained: what the Cards say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limbeck.engine.checking import (
    refuse_gradients,
    refuse_kept_epochs,
    refuse_mixed,
    refuse_temperature,
)
from limbeck.engine.settings import Optimizer
from limbeck.errors import LimbeckError, MethodError, RecipeError, TeacherError, unknown
from limbeck.methods.base import Method, unnamed
from limbeck.methods.card import Access
from limbeck.methods.compose import MethodSum, default_task_weight
from limbeck.recipe.folding import check_folds
from limbeck.recipe.nesting import inside
from limbeck.recipe.plain import join_key
from limbeck.recipe.schema import (
    CachedTeacher,
    CalibratedTeacher,
    CrossFitTeacher,
    EnsembleTeacher,
    OnlineTeacher,
    PartialTeacher,
    Recipe,
    RouteTeacher,
    Teacher,
    TrainTeacher,
)
from limbeck.recipe.teacher_schema import (
    EmaTeacher,
    ModelTeacher,
    OnnxTeacher,
    RunTeacher,
    SklearnTeacher,
    SnapshotTeacher,
    VirtualTeacher,
)
from limbeck.teachers.base import Teacher as LiveTeacher
from limbeck.teachers.base import lesser_access
from limbeck.teachers.cache import refuse_nothing_to_save
from limbeck.teachers.virtual import refuse_mixtures

if TYPE_CHECKING:
    from limbeck.data.bundle import DataBundle

MADE_ON_DEMAND = ("peers", "self")
"""Teachers that need not be written down: a method that names them gets them."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where methods are to work.

    Attributes:
        teachers: what can be asked of each teacher, by name.
        temperatures: of those that can be asked at one temperature only.
        cached: names of those that are caches.
        num_students: members of the cohort; 1 for one student.
        task: the task's kind; None where it is not known yet.
        num_outputs: classes or outputs; None where they are not known yet.
        task_weight: weight of the task term; None: the leftmost method's paper's.
        compile: whether torch.compile is on.
        has_index: whether samples carry their index.
    """

    teachers: Mapping[str, Access] = field(default_factory=dict)
    temperatures: Mapping[str, float] = field(default_factory=dict)
    cached: frozenset[str] = frozenset()
    num_students: int = 1
    task: str | None = None
    num_outputs: int | None = None
    task_weight: float | None = None
    compile: bool = False
    has_index: bool = True


def check_recipe(recipe: Recipe) -> list[str]:
    """Refuse parts that do not fit each other; return warnings, one line each.

    Recipes of teachers are checked too. What depends on the data is left to :func:`check_data`.

    Raises:
        RecipeError: in one line, with the key.
    """
    warnings = []
    for name, teacher in recipe.all_teachers.items():
        key = "teacher" if recipe.teacher is not None else f"teachers.{name}"
        warnings += _check_nested(teacher, key, recipe)
    setting = Setting(
        teachers=accesses(recipe),
        temperatures=only_temperatures(recipe),
        cached=_cached(recipe),
        num_students=len(recipe.students) if recipe.is_cohort else 1,
        task=None if recipe.task.kind == "auto" else recipe.task.kind,
        task_weight=recipe.task.weight,
        compile=recipe.train.compile,
    )
    _check_attention(recipe)
    refuse_kept_epochs(recipe.checkpoints.keep_epochs, len(recipe.students))
    optimizer = recipe.train.optimizer
    if optimizer.name != "sgd" and optimizer.lr == Optimizer().lr:
        warnings.append(
            f"train.optimizer.lr: {optimizer.lr:g} is the default for sgd, and large for "
            f"{optimizer.name}; 0.001 is usual"
        )
    return [*warnings, *check_methods(recipe.methods, setting)]


def _check_attention(recipe: Recipe) -> None:
    """Refuse an explicit fused attention under second derivatives; left open, it is eager."""
    twice = [method.name for method in recipe.methods if method.card.double_backward]
    for student in recipe.students if twice else ():
        attention = student.arguments.get("attention")
        if student.model.startswith("hf/") and attention not in (None, "eager"):
            raise RecipeError(
                f"student.attention: {twice[0]} takes second derivatives, which {attention!r} "
                "attention does not give; use eager, or leave it out"
            )


def check_data(recipe: Recipe, data: DataBundle) -> list[str]:
    """Refuse data that do not fit the recipe; return warnings, one line each.

    Raises:
        RecipeError: in one line, with the key.
    """
    kind = recipe.task.kind
    if kind not in ("auto", data.task):
        raise RecipeError(f"task.kind: the data are for {data.task}, got {kind!r}")
    setting = Setting(
        teachers=accesses(recipe),
        temperatures=only_temperatures(recipe),
        cached=_cached(recipe),
        num_students=len(recipe.students) if recipe.is_cohort else 1,
        task=data.task,
        num_outputs=data.num_outputs,
        task_weight=recipe.task.weight,
        compile=recipe.train.compile,
    )
    check_methods(recipe.methods, setting)
    for name, teacher in recipe.all_teachers.items():
        for cache in _caches(teacher):
            refuse_nothing_to_save(name, data, cache.inputs, recipe.train.views)
            if cache.codec.is_sparse and data.task != "classification":
                raise TeacherError(
                    f"teachers.{name}.codec: {cache.codec.name} keeps a distribution over "
                    f"classes; {data.task} needs float32 or float16"
                )
        if isinstance(teacher, VirtualTeacher):
            refuse_mixtures(name, data)
            if data.task == "regression":
                raise TeacherError(f"teachers.{name}.virtual: has no rule for regression")
    return _check_labels(recipe, data)


def _check_labels(recipe: Recipe, data: DataBundle) -> list[str]:
    refuse_mixed(recipe.methods, data)
    if data.augment_train.steps.mixup and recipe.task.weight != 0:
        return ["data.augment: mixed samples have no label: the task term counts nothing"]
    labelled = int(data.splits["train"].labelled.sum())
    if labelled:
        return []
    if not any(method.card.needs_teacher for method in recipe.methods):
        raise RecipeError("data: no training sample has a label, and no method asks a teacher")
    for method in recipe.methods:
        if method.card.supervision == "labels":
            raise MethodError(f"method {method.name}: needs labels, and no training sample has one")
    return ["no training sample has a label: the task term counts nothing"]


def accesses(recipe: Recipe) -> dict[str, Access]:
    """Return what can be asked of each teacher, those made on demand included."""
    found = {name: access_of(teacher) for name, teacher in recipe.all_teachers.items()}
    for name in made_on_demand(recipe):
        found[name] = "features" if name == "peers" else "module"
    return found


def made_on_demand(recipe: Recipe) -> list[str]:
    """Return the names of teachers that methods ask for and nobody wrote down."""
    asked = [method.teacher for method in recipe.methods if method.card.needs_teacher]
    written = recipe.all_teachers
    names = [name for name in MADE_ON_DEMAND if name in asked and name not in written]
    return [name for name in names if name == "self" or recipe.is_cohort]


def access_of(teacher: Teacher) -> Access:
    """Return the most that can be asked of a teacher."""
    if teacher == "peers":
        return "features"
    if isinstance(teacher, CalibratedTeacher):
        return access_of(teacher.calibrated)
    if isinstance(teacher, OnlineTeacher):
        return "features"
    if isinstance(teacher, RouteTeacher):
        found: Access = "features"
        for one in teacher.route:
            found = lesser_access(found, access_of(one))
        return found
    if isinstance(teacher, PartialTeacher):
        return "features" if len(teacher.shares) > 1 else "module"
    if isinstance(teacher, CachedTeacher):
        inner = access_of(teacher.cache)
        if teacher.codec.is_sparse:
            return "sparse"
        return "features" if can_give(inner, "features") else inner
    if isinstance(
        teacher,
        EnsembleTeacher | CrossFitTeacher | VirtualTeacher | SklearnTeacher | OnnxTeacher,
    ):
        return "outputs"
    return "module"


def _check_nested(teacher: Teacher, key: str, recipe: Recipe) -> list[str]:
    if teacher == "peers" and len(recipe.students) < 2:
        raise RecipeError(f"{key}: peers need a cohort: write student as a list of models")
    if isinstance(teacher, CachedTeacher):
        _check_cache(teacher, key, recipe)
    if isinstance(teacher, CrossFitTeacher):
        check_folds(teacher.crossfit, f"{key}.crossfit", recipe)
    if isinstance(teacher, PartialTeacher):
        _check_parts(teacher, key)
    if isinstance(teacher, RouteTeacher | PartialTeacher) and teacher.at is not None:
        last, epochs = teacher.at[-1], recipe.train.epochs
        if last >= epochs:
            raise TeacherError(
                f"{key}.at: the last teacher would take over after {last:g} epochs, but the "
                f"training has {epochs}"
            )
    found = []
    for part, one in inside(teacher):
        if isinstance(teacher, CalibratedTeacher | EnsembleTeacher | RouteTeacher):
            _refuse_sparse(one, f"{key}.{part}")
        merges = isinstance(teacher, CalibratedTeacher | EnsembleTeacher)
        if merges and isinstance(one, OnlineTeacher):
            raise TeacherError(
                f"{key}.{part}: an online teacher learns from its own answers and must stand by "
                "itself"
            )
        if isinstance(teacher, RouteTeacher):
            _refuse_changing(one, f"{key}.{part}")
        found += _check_nested(one, f"{key}.{part}", recipe)
    return [*found, *_check_trained(teacher, key)] if isinstance(teacher, TrainTeacher) else found


def _check_trained(teacher: TrainTeacher, key: str) -> list[str]:
    inner = teacher.train
    if teacher.epoch is not None:
        _check_epoch(inner, key)
    if inner.deploy == "ensemble" and len(inner.students) > 1:
        raise RecipeError(
            f"{key}.train.student.deploy: a teacher is one network: use best, or an ensemble of "
            "teachers, each with a recipe of its own"
        )
    try:
        return [f"{key}.train: {line}" for line in check_recipe(inner)]
    except LimbeckError as error:
        raise type(error)(f"{key}.train.{error}") from None


def _check_epoch(inner: Recipe, key: str) -> None:
    """Refuse an epoch of a cohort: which member it would deploy is known at the end."""
    if len(inner.students) > 1:
        raise TeacherError(
            f"{key}.epoch: of a cohort no epoch is kept; leave epoch out, or train one student"
        )


def _check_parts(teacher: PartialTeacher, key: str) -> None:
    """Refuse to cut what is not one network that stands still."""
    if not isinstance(teacher.partial, ModelTeacher | RunTeacher | TrainTeacher):
        raise TeacherError(
            f"{key}.partial: sub-networks are cut out of one network: expected {{model: …}}, "
            "{run: …} or {train: recipe}"
        )


def _changes(teacher: Teacher) -> bool:
    """Whether a teacher changes by itself during the run."""
    if isinstance(teacher, PartialTeacher):
        return len(teacher.shares) > 1
    changing = SnapshotTeacher | EmaTeacher | RouteTeacher | OnlineTeacher
    return teacher == "peers" or isinstance(teacher, changing)


def _refuse_changing(teacher: Teacher, key: str) -> None:
    if _changes(teacher):
        raise TeacherError(f"{key}: a teacher on a route must not change by itself during the run")
    for part, one in inside(teacher):
        _refuse_changing(one, f"{key}.{part}")


def _check_cache(teacher: CachedTeacher, key: str, recipe: Recipe) -> None:
    if _changes(teacher.cache):
        raise TeacherError(
            f"{key}.cache: this teacher changes during the run, so that its answers cannot be kept"
        )
    if isinstance(teacher.cache, CachedTeacher):
        raise TeacherError(f"{key}.cache: a cache around a cache keeps nothing more")
    changing = [m.name for m in recipe.methods if m.card.data_modification != "none"]
    if teacher.inputs == "clean" and changing:
        raise TeacherError(
            f"{key}.inputs: method {changing[0]} changes samples, and a changed sample has no "
            "clean view; use inputs: views"
        )


def _refuse_sparse(teacher: Teacher, key: str) -> None:
    if access_of(teacher) == "sparse":
        raise TeacherError(
            f"{key}: a cache that keeps some classes only cannot be merged or calibrated; put the "
            "cache around the whole"
        )


def _caches(teacher: Teacher) -> Iterator[CachedTeacher]:
    """Yield the caches in a teacher, but not those in the recipe that it is trained by."""
    if isinstance(teacher, CachedTeacher):
        yield teacher
    else:
        for _, one in inside(teacher):
            yield from _caches(one)


def only_temperatures(recipe: Recipe) -> dict[str, float]:
    """Return the temperature of each teacher whose cache keeps some classes only."""
    return {
        name: teacher.codec.temperature
        for name, teacher in recipe.all_teachers.items()
        if isinstance(teacher, CachedTeacher) and teacher.codec.is_sparse
    }


def _cached(recipe: Recipe) -> frozenset[str]:
    """Return the names of the teachers that are caches, behind a temperature or not."""
    found = (name for name, one in recipe.all_teachers.items() if any(_caches(one)))
    return frozenset(found)


def check_methods(methods: Sequence[Method], setting: Setting) -> list[str]:
    """Refuse methods that cannot work in this setting; return warnings, one line each.

    Raises:
        MethodError, TeacherError, RecipeError: in one line, with the key.
    """
    MethodSum(tuple(methods))
    several = len(methods) > 1
    for position, method in enumerate(methods):
        key = join_key("method", position) if several else "method"
        _check_task(method, setting, key)
        _check_run(method, setting, key)
        if method.card.needs_teacher:
            _check_teacher(method, setting, key)
    _check_something_to_learn(methods, setting)
    return _unused_teachers(methods, setting)


def _check_task(method: Method, setting: Setting, key: str) -> None:
    card, classes = method.card, setting.num_outputs
    if setting.task is not None and setting.task not in card.tasks:
        raise MethodError(
            f"{key}: {method.name} serves {', '.join(card.tasks)}; the task is {setting.task}"
        )
    if classes is None or setting.task == "regression":
        return
    if setting.task != "multilabel" and classes < card.min_classes:
        raise MethodError(
            f"{key}: {method.name} needs at least {card.min_classes} classes, the data have "
            f"{classes}"
        )
    if card.max_classes is not None and classes > card.max_classes:
        raise MethodError(
            f"{key}: {method.name} takes at most {card.max_classes} classes, the data have "
            f"{classes}"
        )


def _check_run(method: Method, setting: Setting, key: str) -> None:
    card = method.card
    if card.double_backward and setting.compile:
        raise RecipeError(
            f"train.compile: {method.name} takes second derivatives, which compiled modules do not "
            "give; set train.compile=false"
        )
    if card.students == "cohort" and setting.num_students < 2:
        raise MethodError(
            f"{key}: {method.name} needs a cohort of at least two students, got "
            f"{setting.num_students}; write student as a list of models"
        )
    if card.needs_index and not setting.has_index:
        raise MethodError(
            f"{key}: {method.name} needs the index of each sample, and these data give none; "
            "pass a data set instead of a loader"
        )


def _check_teacher(method: Method, setting: Setting, key: str) -> None:
    teachers = setting.teachers
    open_to_all = unnamed(teachers)
    if not (teachers if method.teacher else open_to_all):
        raise MethodError(
            f"{key}: {method.name} needs a teacher, and the recipe names none; write teacher: "
            "{train: teacher.yaml}, or another form"
        )
    if method.teacher is None and len(open_to_all) > 1:
        names = ", ".join(teachers)
        raise TeacherError(f"{key}.teacher: say which teacher {method.name} asks: {names}")
    name = open_to_all[0] if method.teacher is None else method.teacher
    if name not in teachers:
        raise TeacherError(f"{key}.teacher: " + unknown("teacher", name, teachers))
    refuse_temperature(method, setting.temperatures.get(name), name)
    refuse_gradients(method, name not in setting.cached, name)
    if not can_give(teachers[name], method.card.teacher_access):
        raise MethodError(
            f"{key}: {method.name} asks for {method.card.teacher_access} of teacher {name!r}, "
            f"which gives {teachers[name]} only; use a network as teacher, or a method that needs "
            "outputs only"
        )


def can_give(access: Access, wanted: Access) -> bool:
    """Whether a teacher with this access can give what a Card asks."""
    teacher = LiveTeacher()
    teacher.access = access
    return teacher.can_give(wanted)


def _check_something_to_learn(methods: Sequence[Method], setting: Setting) -> None:
    weight = setting.task_weight
    weight = default_task_weight(tuple(methods)) if weight is None else weight
    teaching = [m for m in methods if m.card.needs_teacher and m.weight > 0]
    if weight == 0 and not teaching:
        names = " and ".join(method.name for method in methods)
        raise RecipeError(f"task.weight: 0 leaves nothing to learn with {names}")


def _unused_teachers(methods: Sequence[Method], setting: Setting) -> list[str]:
    asking = [method for method in methods if method.card.needs_teacher]
    if any(method.teacher is None for method in asking):
        return []
    asked = {method.teacher for method in asking}
    names = [name for name in setting.teachers if name not in asked]
    return [f"teacher {name!r} is given, but no method asks it" for name in names]
