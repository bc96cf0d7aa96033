"""Settings of training: frozen dataclasses, the same in a recipe and in Python.

Unknown keys are refused at the boundary (``limbeck.recipe``); ranges are checked here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from limbeck.errors import RecipeError, unknown


def require(holds: bool, key: str, value: Any, expected: str) -> None:
    """Raise RecipeError naming ``key`` and ``value`` unless ``holds``."""
    if not holds:
        raise RecipeError(f"{key}: expected {expected}, got {value!r}")


def require_choice(owner: type[Any], name: str, key: str, value: Any) -> None:
    """Raise RecipeError unless ``value`` is one that the field's Literal allows.

    Recipes are checked by their schema; this is for settings made in Python.
    """
    choices = get_args(get_type_hints(owner)[name])
    if value not in choices:
        raise RecipeError(f"{key}: " + unknown("choice", str(value), choices))


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How parameters move.

    Args:
        name: "sgd" (with momentum), "adam" or "adamw".
        lr: peak learning rate, above 0.
        momentum: of sgd, in [0, 1).
        nesterov: of sgd.
        weight_decay: at least 0.
        betas: of adam and adamw.
        decay_bias_and_norm: whether weight decay also acts on biases and one-dimensional weights.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.999)
    decay_bias_and_norm: bool = True

    def __post_init__(self) -> None:
        require_choice(Optimizer, "name", "train.optimizer.name", self.name)
        require(self.lr > 0, "train.optimizer.lr", self.lr, "a number above 0")
        require(
            0 <= self.momentum < 1, "train.optimizer.momentum", self.momentum, "a number in [0, 1)"
        )
        require(
            not self.nesterov or self.momentum > 0,
            "train.optimizer.nesterov",
            self.nesterov,
            "momentum above 0 beside it",
        )
        require(
            self.weight_decay >= 0,
            "train.optimizer.weight_decay",
            self.weight_decay,
            "a number of at least 0",
        )
        require(
            all(0 <= beta < 1 for beta in self.betas),
            "train.optimizer.betas",
            self.betas,
            "two numbers in [0, 1)",
        )


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the learning rate changes; a function of progress, so epochs may change length.

    Args:
        name: "cosine", "multistep", "linear" or "constant".
        warmup_epochs: linear rise from 0 at the start, in epochs.
        milestones: of multistep: shares of training in (0, 1) or epochs of at least 1.
        gamma: of multistep: factor at each milestone.
        final: of cosine and linear: the last learning rate as a share of the peak.
        cycles: how many times it runs over the training, each with a warm-up and milestones of
            its own, from 1 up to the epochs. Of a method that trains in stages: over each.
    """

    name: Literal["cosine", "multistep", "linear", "constant"] = "cosine"
    warmup_epochs: float = 0.0
    milestones: tuple[float, ...] = (0.625, 0.75, 0.875)  # 150, 180, 210 of 240 epochs
    gamma: float = 0.1
    final: float = 0.0
    cycles: int = 1

    def __post_init__(self) -> None:
        key = "train.schedule"
        require_choice(Schedule, "name", f"{key}.name", self.name)
        require(self.warmup_epochs >= 0, f"{key}.warmup_epochs", self.warmup_epochs, "at least 0")
        ordered = tuple(sorted(self.milestones))
        require(
            self.milestones == ordered and all(m > 0 for m in ordered),
            f"{key}.milestones",
            self.milestones,
            "rising numbers above 0",
        )
        require(0 < self.gamma <= 1, f"{key}.gamma", self.gamma, "a number in (0, 1]")
        require(0 <= self.final <= 1, f"{key}.final", self.final, "a number in [0, 1]")
        whole = isinstance(self.cycles, int) and self.cycles >= 1
        require(whole, f"{key}.cycles", self.cycles, "a whole number of at least 1")


@dataclass(frozen=True, kw_only=True)
class Train:
    """The training run.

    Args:
        epochs: passes over the training part, all stages together, at least 1.
        batch_size: samples in one optimiser step, over all ranks and micro-batches.
        accumulate: micro-batches in one optimiser step.
        optimizer: see :class:`Optimizer`.
        schedule: see :class:`Schedule`.
        clip_norm: largest gradient norm; None: no clipping.
        precision: "float32", or "bfloat16" autocast for student and teacher.
        ema: decay of an exponential moving average of the student, in (0, 1); None: none.
        deploy: which student is kept: "best" by validation, "last", or "ema" (the average, the
            best one of it by validation).
        select_by: validation metric that decides which epoch is best; "auto": accuracy, map or
            r2 after the task.
        evaluate_every: epochs between evaluations on validation.
        measure_train: how many of the last epochs end with measuring the student on the training
            part too, as evaluation shows it; the mean over these is among the run's metrics.
        measure_saliency: whether the deployed student's loyalty to its teacher is measured:
            whether it says the same, and its answers hang on the same tokens.
        log_every: optimiser steps between lines of metrics.jsonl.
        compile: whether torch.compile is used on student and teacher.
        channels_last: whether image models and batches use the channels-last layout.
        views: number of augmented views of each sample that are cycled; None: a fresh one an epoch.
        drop_last: whether an incomplete last batch is left out.
        threads: threads of each process; None: torch's default, and of several processes on one
            machine each its share of the cores, unless OMP_NUM_THREADS is set.
        find_unused_parameters: for several processes: whether parts of the student may get no
            gradient; None: decided from the method.
        deterministic: whether torch is held to deterministic algorithms (for a GPU; CPUs are).
    """

    epochs: int = 30
    batch_size: int = 64
    accumulate: int = 1
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    clip_norm: float | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    ema: float | None = None
    deploy: Literal["best", "last", "ema"] = "best"
    select_by: str = "auto"
    evaluate_every: int = 1
    measure_train: int = 0
    measure_saliency: bool = False
    log_every: int = 50
    compile: bool = False
    channels_last: bool = False
    views: int | None = None
    drop_last: bool = False
    threads: int | None = None
    find_unused_parameters: bool | None = None
    deterministic: bool = False

    def __post_init__(self) -> None:
        for name in ("precision", "deploy"):
            require_choice(Train, name, f"train.{name}", getattr(self, name))
        for name in ("epochs", "batch_size", "accumulate", "evaluate_every", "log_every"):
            value = getattr(self, name)
            require(value >= 1, f"train.{name}", value, "a whole number of at least 1")
        require(self.measure_train >= 0, "train.measure_train", self.measure_train, "at least 0")
        for name in ("views", "threads"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"train.{name}", value, "at least 1, or null")
        require(
            self.clip_norm is None or self.clip_norm > 0,
            "train.clip_norm",
            self.clip_norm,
            "a number above 0, or null",
        )
        require(
            self.ema is None or 0 < self.ema < 1,
            "train.ema",
            self.ema,
            "a number in (0, 1), or null",
        )
        require(
            self.deploy != "ema" or self.ema is not None,
            "train.deploy",
            self.deploy,
            "train.ema set beside it (for example 0.999)",
        )
        require(
            self.schedule.cycles <= self.epochs,
            "train.schedule",
            self.schedule.cycles,
            f"at most {self.epochs} cycles, one for each of train.epochs",
        )


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """When checkpoints are written, and how many stay.

    Args:
        every_epochs: epochs between checkpoints.
        every_steps: optimiser steps between checkpoints within an epoch; None: only at its end.
        keep: how many of the newest stay, at least 1.
        keep_epochs: epochs, from 1, whose student is kept for good as it would be deployed, in the
            run's ``epochs``: teachers of ``{train: …, epoch: 3}``. Not of a cohort.
    """

    every_epochs: int = 1
    every_steps: int | None = None
    keep: int = 2
    keep_epochs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(self.every_epochs >= 1, "checkpoints.every_epochs", self.every_epochs, "at least 1")
        require(
            self.every_steps is None or self.every_steps >= 1,
            "checkpoints.every_steps",
            self.every_steps,
            "at least 1, or null",
        )
        require(self.keep >= 1, "checkpoints.keep", self.keep, "at least 1")
        require(
            all(epoch >= 1 for epoch in self.keep_epochs),
            "checkpoints.keep_epochs",
            self.keep_epochs,
            "epochs of at least 1",
        )
