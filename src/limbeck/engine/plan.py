"""Plan: everything one run needs, resolved to objects; the seam between recipes and the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from limbeck.data.batch import Batch
from limbeck.engine.known_answers import KnownAnswers
from limbeck.engine.settings import Checkpoints, Train
from limbeck.methods.base import Method
from limbeck.teachers.base import Teacher

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run as objects.

    Attributes:
        name: names the arm in tables; runs that differ in seed alone share it.
        data: the data with its three splits.
        make_student: builds a fresh student; called once, under the run's seed.
        methods: the method terms; the leftmost decides the default task weight.
        teachers: teachers by name. "peers" and "self" are made by the engine's caller too.
        task_weight: weight of the one task term; None: the leftmost method's paper's.
        train: training settings.
        checkpoints: checkpoint settings.
        seed: the seed of everything random.
        student_spec: how to rebuild the student (see ``limbeck.models.save_model``), or None.
        forward: how to run a model on a batch, where it is not ``model(inputs)``.
        recipe: the resolved recipe as plain data, for recipe.yaml.
        cohort: "best" or "ensemble": what of a cohort is deployed.
        trackers: names of trackers besides metrics.jsonl: "tensorboard", "wandb".
        probe: other data, on which the deployed student's features are tried; or None.
        answers: what fixed teachers said about validation and test in other runs of this process;
            None: nothing is shared, and neither network nor data need a digest.
    """

    name: str
    data: DataBundle
    make_student: Callable[[], nn.Module]
    methods: tuple[Method, ...]
    teachers: Mapping[str, Teacher] = field(default_factory=dict)
    task_weight: float | None = None
    train: Train = field(default_factory=Train)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    seed: int = 0
    student_spec: Mapping[str, Any] | None = None
    forward: Callable[[nn.Module, Any], Any] | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    cohort: str = "best"
    trackers: tuple[str, ...] = ()
    probe: DataBundle | None = None
    answers: KnownAnswers | None = None


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """What is wired together before a loop begins, whoever's loop it is.

    Attributes:
        methods: the method terms; the leftmost decides the default task weight.
        teachers: teachers by name.
        example: two samples, as evaluation would show them, on the device.
        task: "classification", "multilabel" or "regression".
        num_outputs: classes, labels or regression outputs.
        data: the data; None where they are another engine's.
        task_weight: weight of the one task term; None: the leftmost method's paper's.
        forward: how to run a model on a batch, where it is not ``model(inputs)``.
        compile: whether the student is compiled.
        rows: samples in a full batch, as which teachers are asked about smaller ones; 0: as they
            are.
    """

    methods: tuple[Method, ...]
    teachers: Mapping[str, Teacher]
    example: Batch
    task: str
    num_outputs: int
    data: DataBundle | None = None
    task_weight: float | None = None
    forward: Callable[[nn.Module, Any], Any] | None = None
    compile: bool = False
    rows: int = 0
