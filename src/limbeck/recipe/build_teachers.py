"""Building teachers: one function for each form that a recipe knows."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from limbeck.data.bundle import DataBundle
from limbeck.data.normalize import Normalize
from limbeck.data.samples import digest_of
from limbeck.data.vocabulary import FOLDER as TOKENIZER
from limbeck.engine.run_folder import RunFolder
from limbeck.errors import TeacherError
from limbeck.models import build_model, load_model, read_spec
from limbeck.models.hf import FRESH, with_vocabulary
from limbeck.models.io import (
    BRINGS_WEIGHTS,
    WEIGHTS,
    load_weights,
    saved_beside,
    saved_statistics,
)
from limbeck.models.pretrained_config import pretrained_config
from limbeck.recipe import schema, teacher_schema
from limbeck.recipe.build import Workshop, at, maker_of, same_random_numbers
from limbeck.recipe.checks import made_on_demand
from limbeck.recipe.folding import refuse_other_samples, without_fold
from limbeck.recipe.parts import parts_together, refuse_uncut
from limbeck.recipe.plain import join_key
from limbeck.recipe.schema import Recipe
from limbeck.recipe.teacher_store import obtain
from limbeck.teachers import (
    CachedTeacher,
    CalibratedTeacher,
    CrossFitTeacher,
    EmaTeacher,
    EnsembleTeacher,
    LiveTeacher,
    OnlineTeacher,
    OnnxTeacher,
    PartialTeacher,
    PeersTeacher,
    RouteTeacher,
    SnapshotTeacher,
    Teacher,
    VirtualTeacher,
    fit_sklearn,
)
from limbeck.teachers.crossfit import unseen_beside


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

    def on(self, data: DataBundle) -> Making:
        """Return the same making on other data."""
        return Making(self.workshop, self.recipe, data, self.name, self.key)

    @property
    def say(self) -> Callable[[str], None] | None:
        """What gets lines for a person; None where nothing is to be said."""
        return None if self.workshop.quiet else self.workshop.say

    def live(
        self, module: nn.Module, normalization: Normalize | Literal["auto"] | None
    ) -> LiveTeacher:
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
    brings_weights = spec.model.startswith(BRINGS_WEIGHTS)
    arguments, file = dict(spec.arguments), None if spec.weights == "random" else spec.weights
    saved = None if file is None else saved_beside(file)
    if saved is not None:
        file = str(saved / WEIGHTS)
    if brings_weights and file is not None:  # their own loading knows their files
        arguments, file = {**arguments, "weights": file}, None
    with same_random_numbers(making.recipe.seed):
        module = build_model(
            spec.model,
            num_classes=making.data.num_outputs,
            input_shape=making.data.input_shape,
            allow_code=making.workshop.allow_code,
            **with_vocabulary(spec.model, arguments, making.data.vocabulary),
        )
    fresh = getattr(module, FRESH, ())
    if fresh and spec.weights is None:
        raise TeacherError(
            f"{making.key}: {spec.model} comes without weights for {', '.join(fresh)}, so it has "
            "learned nothing about these classes; train it first: teacher: {train: recipe}"
        )
    if file is not None:
        if not Path(file).is_file():
            raise TeacherError(f"{making.key}.weights: there is no file {file}")
        with at(f"{making.key}.weights"):
            load_weights(module, Path(file))
    if brings_weights and spec.weights != "random":
        _check_head(spec, module, making)
    if spec.normalize is None and saved is not None:  # Limbeck trained it, and wrote down on what
        return making.live(module, saved_statistics(read_spec(saved)) or "auto")
    if spec.normalize is None and spec.weights != "random":
        return making.live(module, "auto")
    return making.live(module, _stated(spec.normalize))


def _stated(stats: teacher_schema.Normalization | str | None) -> Normalize | None:
    """Return the statistics that a recipe states; None for those of the data."""
    if isinstance(stats, teacher_schema.Normalization):
        return Normalize(stats.mean, stats.std)
    return None


def _check_head(spec: teacher_schema.ModelTeacher, module: nn.Module, making: Making) -> None:
    """A head that is new says nothing: refuse it, or warn where features can still be learned."""
    had = pretrained_config(module).get("num_classes")
    if had is None or had == making.data.num_outputs:
        return
    what = f"the weights of {spec.model} are for {had:,} classes, the data have"
    line = f"{what} {making.data.num_outputs:,}: its head is new and has learned nothing"
    asking = [m for m in making.recipe.methods if m.teacher in (None, making.name)]
    if any(m.card.needs_teacher and not m.card.needs_features for m in asking):
        raise TeacherError(
            f"{making.key}: {line}; give weights: of a network trained on these classes, or use a "
            "method that learns from features"
        )
    making.workshop.say(f"warning: {making.key}: {line}; only its features can teach")


@make.register
def _(spec: teacher_schema.RunTeacher, making: Making) -> Teacher:
    folder = Path(spec.run)
    if not folder.is_dir():
        raise TeacherError(f"{making.key}.run: there is no folder {spec.run}")
    return _from_folder(folder / "student" if (folder / "student").is_dir() else folder, making)


@make.register
def _(spec: schema.TrainTeacher, making: Making) -> Teacher:
    found = obtain(spec.train, making.workshop, f"{making.key}.train", spec.epoch)
    if isinstance(found, nn.Module):  # only looking: an untrained network of the right form
        return making.live(found, None)
    weights = None if spec.epoch is None else RunFolder(found).epoch_file(spec.epoch)
    return _from_folder(found / "student", making, weights)


@make.register
def _(spec: schema.EnsembleTeacher, making: Making) -> Teacher:
    members = [
        make(one, making.below(f"ensemble.{position}"))
        for position, one in enumerate(spec.ensemble)
    ]
    return EnsembleTeacher(members, merge=spec.merge, weights=spec.weights, name=making.name)


@make.register
def _(spec: schema.RouteTeacher, making: Making) -> Teacher:
    members = [
        make(one, making.below(f"route.{position}")) for position, one in enumerate(spec.route)
    ]
    return RouteTeacher(members, at=spec.at, name=making.name)


@make.register
def _(spec: schema.PartialTeacher, making: Making) -> Teacher:
    refuse_uncut(spec, making)
    whole = make(spec.partial, making.below("partial"))
    parts = parts_together(spec, whole, making)
    if len(parts) == 1:
        return parts[0]
    return PartialTeacher(parts, at=spec.at, name=making.name)


@make.register
def _(spec: schema.CrossFitTeacher, making: Making) -> Teacher:
    members, unseen = [], []
    samples = making.data.splits["train"].samples
    below = making.below("crossfit")
    for fold in range(spec.folds):
        leave_out = {"fold": fold, "of": spec.folds, "seed": spec.seed}
        one, data = without_fold(spec.crossfit, making.recipe, leave_out, making.workshop)
        refuse_other_samples(below.key, data, making.data)
        members.append(make(one, below.on(data)))
        unseen.append(unseen_beside(len(samples), data.splits["train"].indices))
    return CrossFitTeacher(
        members,
        torch.stack(unseen),
        samples=digest_of(samples),
        name=making.name,
        say=making.say,
    )


@make.register
def _(spec: schema.CalibratedTeacher, making: Making) -> Teacher:
    temperature: Any = spec.temperature
    if isinstance(temperature, str):
        temperature = temperature.removeprefix("auto-")
    inner = make(spec.calibrated, making.below("calibrated"))
    return CalibratedTeacher(
        inner,
        temperature=temperature,
        scaling=spec.scaling,
        penalty=spec.penalty,
        name=making.name,
        say=making.say,
    )


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
        say=making.say,
    )


@make.register
def _(spec: schema.OnlineTeacher, making: Making) -> Teacher:
    train = making.recipe.train
    with at(f"{making.key}.online"), same_random_numbers(making.recipe.seed):
        network = maker_of(spec.online, making.data, making.workshop.allow_code)()
    if train.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return OnlineTeacher(network, name=making.name, compile=train.compile)


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


@make.register
def _(spec: teacher_schema.OnnxTeacher, making: Making) -> Teacher:
    return OnnxTeacher(
        spec.onnx,
        output=spec.output,
        output_name=spec.output_name,
        normalization=_stated(spec.normalize),
        threads=spec.threads,
        name=making.name,
    )


def _from_folder(folder: Path, making: Making, weights: Path | None = None) -> Teacher:
    """Read a saved student as a teacher, with the statistics of the data it learned on.

    Args:
        folder: the student's.
        making: whose.
        weights: a file with the weights of another epoch; None: those in the folder.
    """
    spec = read_spec(folder)
    gives = spec.get("num_classes")
    if gives is not None and gives != making.data.num_outputs:
        raise TeacherError(
            f"{making.key}: gives {gives} classes, the data have {making.data.num_outputs}"
        )
    read, here = (spec.get("vocabulary") or {}).get("sha256"), making.data.vocabulary
    if read is not None and here is not None and read != here.digest:
        raise TeacherError(
            f"{making.key}: learned with another tokenizer than the data's: give both the same "
            f"data (seed and sizes decide the part a tokenizer is trained on), or "
            f"data.tokenizer={folder / TOKENIZER}"
        )
    if spec["model"] is None:
        raise TeacherError(
            f"{making.key}: {folder} holds weights only, for it was trained from Python; say which "
            f"network they belong to: {{model: timm/… or py:module:function, weights: {folder}}}"
        )
    module = load_model(folder, allow_code=making.workshop.allow_code)
    if weights is not None:
        load_weights(module, weights)
    return making.live(module, saved_statistics(spec))
