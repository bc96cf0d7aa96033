"""Building teachers: one function for each form that a recipe knows."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.data.bundle import DataBundle
from limbeck.data.normalize import Normalize
from limbeck.errors import TeacherError
from limbeck.models import build_model, load_model, read_spec
from limbeck.models.io import load_weights
from limbeck.recipe import schema, teacher_schema
from limbeck.recipe.build import Workshop, at, same_random_numbers
from limbeck.recipe.checks import made_on_demand
from limbeck.recipe.plain import join_key
from limbeck.recipe.schema import Recipe
from limbeck.recipe.teacher_store import obtain
from limbeck.teachers import (
    CachedTeacher,
    CalibratedTeacher,
    EmaTeacher,
    EnsembleTeacher,
    LiveTeacher,
    PeersTeacher,
    SnapshotTeacher,
    Teacher,
    VirtualTeacher,
    fit_sklearn,
)


class Making:
    """One teacher being built.

    Args:
        workshop: shared tools.
        recipe: the recipe whose teacher it is.
        data: the data it will be asked about.
        name: what methods call it.
        key: its dotted key, for messages.
    """

    def __init__(
        self, workshop: Workshop, recipe: Recipe, data: DataBundle, name: str, key: str
    ) -> None:
        self.workshop = workshop
        self.recipe = recipe
        self.data = data
        self.name = name
        self.key = key

    def below(self, part: str) -> Making:
        """Return the making of a teacher inside this one."""
        return Making(self.workshop, self.recipe, self.data, self.name, f"{self.key}.{part}")

    def live(self, module: nn.Module, normalization: Normalize | None) -> LiveTeacher:
        """Wrap a network as the recipe's training settings say."""
        train = self.recipe.train
        return LiveTeacher(
            module,
            normalization=normalization,
            name=self.name,
            compile=train.compile,
            precision=train.precision,
            channels_last=train.channels_last,
        )


def build_teachers(
    workshop: Workshop, recipe: Recipe, data: DataBundle, where: str = ""
) -> dict[str, Teacher]:
    """Return the teachers of a recipe by name, trained or found again where they are recipes.

    Args:
        workshop: tools and settings.
        recipe: whose teachers.
        data: what they will be asked about.
        where: the key of the recipe, if it is that of a teacher itself.
    """
    teachers = {}
    for name, spec in recipe.all_teachers.items():
        key = join_key(where, "teacher" if recipe.teacher is not None else f"teachers.{name}")
        with at(key):
            teachers[name] = make(spec, Making(workshop, recipe, data, name, key))
    on_demand: dict[str, Callable[[], Teacher]] = {
        "peers": PeersTeacher,
        "self": lambda: SnapshotTeacher(name="self"),
    }
    return teachers | {name: on_demand[name]() for name in made_on_demand(recipe)}


@singledispatch
def make(spec: Any, making: Making) -> Teacher:
    """Build the teacher that ``spec`` describes; raises LimbeckError where it cannot be built."""
    raise TypeError(f"no such form of teacher: {type(spec).__name__}")


@make.register
def _(spec: str, making: Making) -> Teacher:
    return PeersTeacher(making.name)


@make.register
def _(spec: teacher_schema.ModelTeacher, making: Making) -> Teacher:
    seed = making.recipe.seed
    with same_random_numbers(seed):
        module = build_model(
            spec.model,
            num_classes=making.data.num_outputs,
            input_shape=making.data.input_shape,
            allow_code=making.workshop.allow_code,
            **spec.arguments,
        )
    if spec.weights is not None and spec.weights != "random":
        path = Path(spec.weights)
        if not path.is_file():
            raise TeacherError(f"{making.key}.weights: there is no file {spec.weights}")
        with at(f"{making.key}.weights"):
            load_weights(module, path)
    stats = spec.normalize
    return making.live(module, None if stats is None else Normalize(stats.mean, stats.std))


@make.register
def _(spec: teacher_schema.RunTeacher, making: Making) -> Teacher:
    folder = Path(spec.run)
    if not folder.is_dir():
        raise TeacherError(f"{making.key}.run: there is no folder {spec.run}")
    return _from_folder(folder / "student" if (folder / "student").is_dir() else folder, making)


@make.register
def _(spec: schema.TrainTeacher, making: Making) -> Teacher:
    found = obtain(spec.train, making.workshop, f"{making.key}.train")
    if isinstance(found, nn.Module):  # only looking: an untrained network of the right form
        return making.live(found, None)
    return _from_folder(found / "student", making)


@make.register
def _(spec: schema.EnsembleTeacher, making: Making) -> Teacher:
    members = [
        make(one, making.below(f"ensemble.{position}"))
        for position, one in enumerate(spec.ensemble)
    ]
    return EnsembleTeacher(members, merge=spec.merge, weights=spec.weights, name=making.name)


@make.register
def _(spec: schema.CalibratedTeacher, making: Making) -> Teacher:
    temperature: Any = spec.temperature
    if isinstance(temperature, str):
        temperature = temperature.removeprefix("auto-")
    inner = make(spec.calibrated, making.below("calibrated"))
    return CalibratedTeacher(inner, temperature=temperature, name=making.name)


@make.register
def _(spec: schema.CachedTeacher, making: Making) -> Teacher:
    inner = make(spec.cache, making.below("cache"))
    return CachedTeacher(
        inner,
        spec.folder,
        codec=spec.codec,
        inputs=spec.inputs,
        budget=spec.budget,
        name=making.name,
        say=None if making.workshop.quiet else making.workshop.say,
    )


@make.register
def _(spec: teacher_schema.VirtualTeacher, making: Making) -> Teacher:
    return VirtualTeacher(spec.virtual.correct, name=making.name)


@make.register
def _(spec: teacher_schema.SnapshotTeacher, making: Making) -> Teacher:
    return SnapshotTeacher(spec.snapshot.every, spec.snapshot.start, name=making.name)


@make.register
def _(spec: teacher_schema.EmaTeacher, making: Making) -> Teacher:
    return EmaTeacher(spec.ema.decay, warm_up=spec.ema.warm_up, name=making.name)


@make.register
def _(spec: teacher_schema.SklearnTeacher, making: Making) -> Teacher:
    return fit_sklearn(
        spec.sklearn.estimator,
        spec.sklearn.arguments,
        making.data,
        seed=making.recipe.seed,
        name=making.name,
    )


def _from_folder(folder: Path, making: Making) -> Teacher:
    """Read a saved student as a teacher, with the statistics of the data it learned on."""
    spec = read_spec(folder)
    gives = spec.get("num_classes")
    if gives is not None and gives != making.data.num_outputs:
        raise TeacherError(
            f"{making.key}: gives {gives} classes, the data have {making.data.num_outputs}"
        )
    module = load_model(folder, allow_code=making.workshop.allow_code)
    stats = spec.get("normalisation") or {}
    known = "mean" in stats and "std" in stats
    return making.live(module, Normalize(stats["mean"], stats["std"]) if known else None)
