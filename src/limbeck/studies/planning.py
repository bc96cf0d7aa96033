"""Planning: the recipes of every arm, trial and seed, all of them checked before anything runs."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from limbeck.errors import RecipeError
from limbeck.recipe.expansion import Changes, expand
from limbeck.recipe.overrides import Overrides, read_overrides
from limbeck.recipe.paths import absolute
from limbeck.recipe.plain import show
from limbeck.recipe.reading import read_document
from limbeck.recipe.resolved import recipe_digest, resolved
from limbeck.recipe.schema import Recipe
from limbeck.recipe.validation import validate
from limbeck.studies.loading import LoadedStudy
from limbeck.studies.schema import Arm, Study

_FIXED = ("name", "seed", "output", "version")
"""Keys of a recipe that the study decides."""


@dataclass(frozen=True)
class PlannedRun:
    """One run: a recipe with its seed, and the name of its folder."""

    recipe: Recipe

    @cached_property
    def document(self) -> dict[str, Any]:
        """The resolved recipe."""
        return resolved(self.recipe)

    @cached_property
    def digest(self) -> str:
        """What the run learns, in 16 letters: the same content is the same run."""
        return recipe_digest(self.document)[:16]

    @property
    def folder_name(self) -> str:
        """Name of its folder; that it ends in the digest is what finds it again."""
        label = re.sub(r"[^A-Za-z0-9]+", "-", self.recipe.name).strip("-").lower()
        return f"{label}-seed{self.recipe.seed}-{self.digest}"


@dataclass(frozen=True)
class Trial:
    """One setting of an arm: what it sets, and the recipe (seed 0) that comes of it."""

    changes: Mapping[str, Any]
    recipe: Recipe

    @property
    def label(self) -> str:
        """What it sets, short."""
        short = [key.rpartition(".")[2] for key in self.changes]
        keys = short if len(set(short)) == len(short) else list(self.changes)
        values = (show(value, 30).strip("'") for value in self.changes.values())
        parts = (f"{key}={value}" for key, value in zip(keys, values, strict=True))
        return ", ".join(parts) or "as written"

    def run(self, seed: int) -> PlannedRun:
        """Return its run with a seed."""
        return PlannedRun(dataclasses.replace(self.recipe, seed=seed))


@dataclass(frozen=True)
class PlannedArm:
    """An arm at one place of the grid.

    Attributes:
        name: the arm's name.
        cell: axis -> option.
        arm: what the study says of it.
        trials: its trials, at least one.
    """

    name: str
    cell: Mapping[str, str]
    arm: Arm
    trials: tuple[Trial, ...]

    @property
    def label(self) -> str:
        """Name in tables: the arm, and where in the grid."""
        return self.name + (f" @ {', '.join(self.cell.values())}" if self.cell else "")


@dataclass(frozen=True)
class StudyPlan:
    """A study with all its recipes.

    Attributes:
        loaded: the study.
        arms: every arm at every place of the grid.
    """

    loaded: LoadedStudy
    arms: tuple[PlannedArm, ...]

    @property
    def study(self) -> Study:
        """The study as it is run."""
        return self.loaded.study

    @property
    def is_tuned(self) -> bool:
        """Whether arms have more than one trial."""
        return len(self.arms[0].trials) > 1

    def tuning_runs(self, arm: PlannedArm) -> list[tuple[Trial, PlannedRun]]:
        """Return the runs that choose an arm's trial; none where there is nothing to choose."""
        if not self.is_tuned:
            return []
        return [(t, t.run(seed)) for t in arm.trials for seed in self.study.tuning.seeds]

    def final_runs(self, trial: Trial) -> list[PlannedRun]:
        """Return the runs of a chosen trial on the study's seeds."""
        return [trial.run(seed) for seed in self.study.seeds]

    @property
    def most_runs(self) -> int:
        """How many different runs there are at most; the chosen trials decide how many."""
        tuning = {run.digest for arm in self.arms for _, run in self.tuning_runs(arm)}
        final = {run.digest for arm in self.arms for run in self.final_runs(arm.trials[0])}
        return len(tuning | final)


def plan_study(loaded: LoadedStudy, overrides: Overrides = ()) -> StudyPlan:
    """Read and check all recipes of a study.

    What an arm's recipe is made of, later ones last: the study's recipe, the overrides, what the
    scale sets, the options of the axes, what the arm sets, what the trial sets.

    Args:
        loaded: the study.
        overrides: changes to the recipe that all runs start from; relative paths in them start
            from the working folder.

    Raises:
        RecipeError: in one line, with the arm and the trial.
    """
    base = _Base(loaded, overrides)
    study = loaded.study
    names = list(study.axes)
    cells = [
        dict(zip(names, options, strict=True))
        for options in itertools.product(*study.axes.values())
    ]
    arms = [
        PlannedArm(name, cell, arm, tuple(base.trials(name, arm, cell)))
        for cell in cells
        for name, arm in study.arms.items()
    ]
    return StudyPlan(loaded, tuple(arms))


class _Base:
    """The recipe that all runs start from, and the changes that all of them share."""

    def __init__(self, loaded: LoadedStudy, overrides: Overrides) -> None:
        self.study, self.folder = loaded.study, loaded.folder
        self.chain: tuple[Path, ...] = ()
        self.start = loaded.folder
        recipe = self.study.recipe
        if isinstance(recipe, str):
            path = Path(absolute(recipe, loaded.folder))
            recipe, _ = read_document(path)
            self.chain, self.start = (path.resolve(),), path.parent
        self.recipe = recipe
        self.shared = [
            Changes(tuple(read_overrides(overrides)), Path.cwd()),
            self._changes("scale", loaded.changes),
        ]

    def trials(self, name: str, arm: Arm, cell: Mapping[str, str]) -> Iterator[Trial]:
        """Yield the trials of an arm at one place of the grid."""
        groups = [
            self._changes(f"axes.{axis}.{option}", self.study.axes[axis][option])
            for axis, option in cell.items()
        ]
        groups.append(self._changes(f"arms.{name}.set", arm.set))
        for position, changes in enumerate(arm.all_trials()):
            where = f"arms.{name}, trial {position + 1}"
            if cell:
                where += f" at {', '.join(cell.values())}"
            own = self._changes(where, changes)
            try:
                document = expand(self.recipe, self.start, self.chain, [*self.shared, *groups, own])
                # the name of the arm names the run; the seed comes later
                recipe = validate({**document, "name": name, "seed": 0, "output": None})
            except RecipeError as error:
                raise RecipeError(f"{where}: {error}") from None
            yield Trial(changes, recipe)

    def _changes(self, where: str, values: Mapping[str, Any]) -> Changes:
        for key in values:
            if key in _FIXED:
                raise RecipeError(f"{where}: {key} is the study's to decide; leave it out")
        return Changes(tuple(read_overrides(values)), self.folder)
