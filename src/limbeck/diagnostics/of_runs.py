"""Diagnoses of run folders."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from limbeck.data import DataBundle, eval_batches, steps_per_epoch
from limbeck.diagnostics.explanations import compare_explanations
from limbeck.diagnostics.findings import ExplanationFindings
from limbeck.diagnostics.knowledge import Knowledge, measure_knowledge
from limbeck.diagnostics.variance import VarianceEstimate, estimate_variance
from limbeck.engine.checkpoint import load_latest, unpack
from limbeck.engine.loyalty import measure_loyalty
from limbeck.engine.measuring import EVAL_BATCH
from limbeck.engine.plan import Plan
from limbeck.engine.run_folder import RunFolder
from limbeck.errors import CheckpointError, RecipeError
from limbeck.methods.e2kd import E2KD
from limbeck.models import load_model
from limbeck.recipe.build import build_plan
from limbeck.recipe.overrides import Overrides
from limbeck.recipe.running import finished_run, recipe_of
from limbeck.teachers import Teacher, as_teacher


def variance_of_run(
    folder: str | Path,
    overrides: Overrides = (),
    *,
    teacher: str | Path | None = None,
    step: float | None = None,
    curvature: float | None = None,
    num_batches: int = 500,
    allow_code: bool = False,
) -> VarianceEstimate:
    """Estimate, from a finished run, what PVR's λ would be best.

    Args:
        folder: the run; its student stands for the optimum, its data and settings are used.
        overrides: changes to its recipe: another batch size, other data.
        teacher: a run whose student is the teacher; None: the run's own teacher.
        step: learning rate that is meant; None: the run's.
        curvature: see :func:`estimate_variance`.
        num_batches: mini-batches to draw.
        allow_code: also import models from code that is not installed.

    Raises:
        RecipeError: the run has no teacher, or several, and no other was given.
        CheckpointError: its teacher is an online one, and no checkpoint is left to read it from.
    """
    run = finished_run(folder)
    recipe = recipe_of(run, overrides, "call limbeck.diagnostics.estimate_variance")
    plan = build_plan(recipe, allow_code=allow_code, quiet=True)
    found = _teacher_of(run, plan, teacher, allow_code)
    train = plan.train
    an_epoch = steps_per_epoch(plan.data.splits["train"], train.batch_size)
    return estimate_variance(
        load_model(run.student, allow_code=allow_code),
        found,
        plan.data,
        step=train.optimizer.lr if step is None else step,
        batch_size=train.batch_size,
        num_steps=an_epoch * train.epochs,
        curvature=curvature,
        num_batches=num_batches,
        seed=plan.seed,
    )


def loyalty_of_run(
    folder: str | Path,
    overrides: Overrides = (),
    *,
    teacher: str | Path | None = None,
    split: str = "test",
    allow_code: bool = False,
) -> dict[str, float | None]:
    """Measure how loyal a finished run's student is to its teacher.

    Args:
        folder: the run.
        overrides: changes to its recipe: other data.
        teacher: a run whose student is the teacher; None: the run's own teacher.
        split: what both are asked about.
        allow_code: also import models from code that is not installed.

    Returns:
        "label_loyalty", "probability_loyalty" and "saliency_loyalty"; None where a measure has
        nothing to go by. See :func:`limbeck.engine.loyalty.measure_loyalty`.

    Raises:
        RecipeError: the task has no classes; or the run has no teacher, or several, and no other
            was given.
        CheckpointError: its teacher is an online one, and no checkpoint is left to read it from.
    """
    with _asked(folder, overrides, teacher, "engine.loyalty.measure_loyalty", allow_code) as (
        student,
        found,
        data,
    ):
        if data.task != "classification":
            raise RecipeError(f"{folder}: loyalty compares classes, the task is {data.task}")
        told = measure_loyalty(
            student,
            found,
            eval_batches(data.splits[split], EVAL_BATCH, data.augment_eval),
            torch.device("cpu"),
        )
    return {key: None if math.isnan(value) else value for key, value in told.items()}


def knowledge_of_run(
    folder: str | Path,
    overrides: Overrides = (),
    *,
    teacher: str | Path | None = None,
    split: str = "test",
    share: float = 1.0,
    temperature: float = 1.0,
    allow_code: bool = False,
) -> Knowledge:
    """Measure what a finished run's teacher adds to labels: weights of samples, kin of classes.

    Args:
        folder: the run.
        overrides: changes to its recipe: other data.
        teacher: a run whose student is the teacher; None: the run's own teacher.
        split: what both are asked about.
        share: λ, the teacher's share of the loss, in [0, 1]; 1: the knowledge term alone.
        temperature: of both sides, above 0.
        allow_code: also import models from code that is not installed.

    Raises:
        RecipeError: the run has no teacher, or several, and no other was given.
        CheckpointError: its teacher is an online one, and no checkpoint is left to read it from.
        LimbeckError: the task has no classes, or the split no labels.
    """
    wanted = "diagnostics.measure_knowledge"
    with _asked(folder, overrides, teacher, wanted, allow_code) as (student, found, data):
        return measure_knowledge(
            student, found, data, split=split, share=share, temperature=temperature
        )


@contextmanager
def _asked(
    folder: str | Path,
    overrides: Overrides,
    teacher: str | Path | None,
    instead: str,
    allow_code: bool,
) -> Iterator[tuple[nn.Module, Teacher, DataBundle]]:
    """Give a run's student, a teacher that can be asked while the context lasts, and the data."""
    run = finished_run(folder)
    recipe = recipe_of(run, overrides, f"call limbeck.{instead}")
    plan = build_plan(recipe, allow_code=allow_code, quiet=True)
    found = as_teacher(_teacher_of(run, plan, teacher, allow_code))
    found.bind(plan.data, torch.device("cpu"))
    try:
        yield load_model(run.student, allow_code=allow_code), found, plan.data
    finally:
        found.close()


def explanations_of_run(
    folder: str | Path,
    overrides: Overrides = (),
    *,
    teacher: str | Path | None = None,
    split: str = "test",
    explainer: str | None = None,
    tap: str | None = None,
    teacher_tap: str | None = None,
    allow_code: bool = False,
) -> ExplanationFindings:
    """Compare the explanations of a finished run's student with those of its teacher.

    Masks and groups are those of the data, where they have some.

    Args:
        folder: the run.
        overrides: changes to its recipe: other data.
        teacher: a run whose student is the teacher; None: the run's own teacher.
        split: "train", "validation" or "test".
        explainer: see :func:`limbeck.diagnostics.compare_explanations`; None: with the taps, that
            of the run's own e2kd, else "gradcam".
        tap: where the student is explained; None: the explainer's own.
        teacher_tap: the same in the teacher; None: the student's.
        allow_code: also import models from code that is not installed.

    Raises:
        RecipeError: the run has no teacher, or several, and no other was given.
        CheckpointError: its teacher is an online one, and no checkpoint is left to read it from.
        LimbeckError: as of ``compare_explanations``.
    """
    run = finished_run(folder)
    recipe = recipe_of(run, overrides, "call limbeck.diagnostics.compare_explanations")
    if explainer is None:
        own = next((method for method in recipe.methods if isinstance(method, E2KD)), E2KD())
        explainer, tap, teacher_tap = own.explainer, tap or own.tap, teacher_tap or own.teacher_tap
    plan = build_plan(recipe, allow_code=allow_code, quiet=True)
    return compare_explanations(
        load_model(run.student, allow_code=allow_code),
        _teacher_of(run, plan, teacher, allow_code),
        plan.data,
        split=split,
        explainer=explainer,
        tap=tap,
        teacher_tap=teacher_tap,
    )


def _teacher_of(
    run: RunFolder, plan: Plan, teacher: str | Path | None, allow_code: bool
) -> nn.Module | Teacher:
    """Return the student of another run, or the one teacher of this one."""
    if teacher is not None:
        return load_model(RunFolder.open(teacher).student, allow_code=allow_code)
    if len(plan.teachers) == 1:
        ((name, own),) = plan.teachers.items()
        if own.learner is not None:
            _as_it_learned(run, name, own.learner)
        return own
    there = ", ".join(plan.teachers) or "none"
    raise RecipeError(
        f"{run.path}: expected one teacher, the run has {there}; give another run whose "
        "student is the teacher (--teacher)"
    )


def _as_it_learned(run: RunFolder, name: str, network: nn.Module) -> None:
    """Give the network of an online teacher the weights of the run's newest checkpoint.

    Raises:
        CheckpointError: there is none, or it is of another network.
    """
    snapshot, _ = load_latest(run.checkpoints)
    try:
        network.load_state_dict(unpack(f"teacher.{name}", snapshot.tensors))
    except RuntimeError as error:
        line = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{run.checkpoints}: the teacher {name!r} does not fit this recipe ({line})"
        ) from error
    network.eval()  # it answers questions with a graph in the mode that it is in
