"""Schema: what a study can say. Arms, axes, seeds, trials, and the claims that are to be judged."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, PlainValidator, WithJsonSchema

from limbeck.errors import RecipeError
from limbeck.recipe import checkers
from limbeck.recipe.messages import expected
from limbeck.studies.statistics import Direction

FORMAT = 1
"""Version of the study format that this Limbeck reads."""

TEACHER = "teacher"
"""What stands for an arm's own teacher where an arm is compared with it."""

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


def _label(value: str) -> str:
    if not re.fullmatch(r"\w[\w.+-]{0,39}", value):
        raise expected("letters, digits, '.', '_', '+' or '-', at most 40", value)
    return value


def _overrides(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise expected("a mapping of dotted keys to values", value)
    return value


def _file_or_mapping(value: Any) -> Any:
    if not isinstance(value, Mapping | str):
        raise expected("a recipe's file, or a recipe", value)
    return value


def _different(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value:
        raise expected("at least one entry", [])
    if len({repr(one) for one in value}) < len(value):
        raise expected("entries that differ", list(value))
    return value


def _seed(value: int) -> int:
    if not 0 <= value < 2**63:
        raise expected("a whole number from 0 to 2**63 - 1", value)
    return value


Label = Annotated[str, AfterValidator(_label)]
Overrides = Annotated[Mapping[str, Any], BeforeValidator(_overrides)]
Seed = Annotated[int, AfterValidator(_seed)]
Seeds = Annotated[tuple[Seed, ...], AfterValidator(_different)]
Labels = Annotated[tuple[Label, ...], AfterValidator(_different)]
Values = Annotated[tuple[Any, ...], AfterValidator(_different)]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is to be judged, written down before anything runs.

    Args:
        says: the claim in words.
        source: where it stands: paper, table, section.
        metric: test metric that decides.
        smallest_effect: smallest difference that matters, above 0, in the metric's kept unit (0.01
            is one point of accuracy).
        direction: "better": the arm is better than the baseline; "not worse": it is worse by less
            than the smallest effect.
    """

    __pydantic_config__ = STRICT

    says: str
    source: str = ""
    metric: str = "accuracy"
    smallest_effect: float
    direction: Direction = "better"

    def __post_init__(self) -> None:
        checkers.above(0, "smallest_effect", self.smallest_effect)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One of the things that are compared.

    Args:
        set: dotted keys of the recipe and their values.
        description: what it is, for people.
        reference: whether it is there to be compared with.
        trials: settings that are tried, each a mapping like ``set``; the best on validation is
            run on the study's seeds.
        grid: the same as a grid: dotted keys, each with its values. Either ``trials`` or ``grid``.
    """

    __pydantic_config__ = STRICT

    set: Overrides = field(default_factory=dict)
    description: str = ""
    reference: bool = False
    trials: tuple[Overrides, ...] = ()
    grid: Mapping[str, Values] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.trials and self.grid:
            raise RecipeError("grid: expected either trials or grid, got both")
        written = {repr(sorted(trial.items())) for trial in self.trials}
        if len(written) < len(self.trials):
            raise RecipeError(f"trials: expected trials that differ, got {list(self.trials)}")

    def all_trials(self) -> tuple[Mapping[str, Any], ...]:
        """Return the settings that are tried, at least one."""
        if not self.grid:
            return self.trials or ({},)
        values = itertools.product(*self.grid.values())
        return tuple(dict(zip(self.grid, one, strict=True)) for one in values)


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Two arms and the claim that they decide.

    Args:
        claim: its name in ``claims``.
        arm: the arm that the claim is about.
        baseline: the arm that it is compared with, or "teacher": the arm's own teacher.
        at: axis -> option, where only part of the grid is meant.
    """

    __pydantic_config__ = STRICT

    claim: str
    arm: str
    baseline: str
    at: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Relate:
    """A property of the teachers and a claim about their students, over the places of the grid.

    The claim's smallest effect is a correlation (of ``rather_than``: a share of the variance).

    Args:
        claim: its name in ``claims``; its metric is the students'.
        arm: the arm whose students are meant; each place of the grid is one teacher.
        property: of the teacher on the test part: "accuracy", "ece", "ace", "overconfidence",
            "nll", "brier" or "confidence".
        given: another property that is held fixed: the correlation is a partial one.
        rather_than: another property that explains less: the difference of the two R².
    """

    __pydantic_config__ = STRICT

    claim: str
    arm: str
    property: str
    given: str | None = None
    rather_than: str | None = None

    def __post_init__(self) -> None:
        if self.given is not None and self.rather_than is not None:
            raise RecipeError("rather_than: expected either given or rather_than, got both")


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How an arm's setting is chosen among its trials.

    Args:
        seeds: seeds on which each trial is run.
        metric: validation metric whose mean over these seeds decides.
    """

    __pydantic_config__ = STRICT

    seeds: Seeds = (0,)
    metric: str = "accuracy"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A smaller (or larger) version of the study: what is said here replaces what stands above.

    Args:
        description: for people.
        seeds: None: the study's.
        tuning_seeds: None: those of the study's tuning.
        arms: which arms; None: all.
        axes: axis -> which options; axes that are not named keep all.
        trials: the first so many trials of each arm; None: all.
        set: dotted keys of the recipe and their values, for all arms.
    """

    __pydantic_config__ = STRICT

    description: str = ""
    seeds: Seeds | None = None
    tuning_seeds: Seeds | None = None
    arms: Labels | None = None
    axes: Mapping[str, Labels] = field(default_factory=dict)
    trials: int | None = None
    set: Overrides = field(default_factory=dict)

    def __post_init__(self) -> None:
        checkers.at_least(1, "trials", self.trials)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A grid of recipes: axes x arms x seeds.

    Args:
        name: the study's name; None: that of its file.
        version: format version, 1.
        description: what is asked, for people.
        extends: the file of a study that this one changes; what is not said here is as it stands
            there (:mod:`limbeck.studies.extending`).
        recipe: the recipe that all runs start from: a file, or written out.
        seeds: one run of every arm for each.
        arms: what is compared.
        axes: axis -> option -> dotted keys of the recipe and their values; set before the arm's.
        tuning: see :class:`Tuning`.
        metric: test metric of tables and plots.
        claims: claim by name; a file, or written out.
        compare: which arms decide which claim. Holm's correction is over all of these.
        relate: which properties of teachers decide which claim; corrected among themselves.
        scales: versions of the study by name.
    """

    __pydantic_config__ = STRICT

    version: Annotated[int, AfterValidator(checkers.version)] = FORMAT
    name: Annotated[str, AfterValidator(checkers.run_name)]
    description: str = ""
    extends: str | None = None
    recipe: Annotated[
        str | Mapping[str, Any],
        PlainValidator(_file_or_mapping),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}]}),
    ]
    seeds: Seeds = (0, 1, 2, 3, 4)
    arms: Mapping[Label, Arm]
    axes: Mapping[Label, Mapping[Label, Overrides]] = field(default_factory=dict)
    tuning: Tuning = field(default_factory=Tuning)
    metric: str = "accuracy"
    claims: Mapping[Label, Claim] = field(default_factory=dict)
    compare: tuple[Compare, ...] = ()
    relate: tuple[Relate, ...] = ()
    scales: Mapping[Label, Scale] = field(default_factory=dict)
