"""Diagnoses of run folders."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from limbeck.data import steps_per_epoch
from limbeck.diagnostics.variance import VarianceEstimate, estimate_variance
from limbeck.engine.run_folder import RunFolder
from limbeck.errors import RecipeError
from limbeck.models import load_model
from limbeck.recipe.build import build_plan
from limbeck.recipe.overrides import Overrides
from limbeck.recipe.running import finished_run, recipe_of
from limbeck.teachers import Teacher


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
    """
    run = finished_run(folder)
    recipe = recipe_of(run, overrides, "call limbeck.diagnostics.estimate_variance")
    plan = build_plan(recipe, allow_code=allow_code, quiet=True)
    found: nn.Module | Teacher
    if teacher is not None:
        found = load_model(RunFolder.open(teacher).student, allow_code=allow_code)
    elif len(plan.teachers) == 1:
        (found,) = plan.teachers.values()
    else:
        there = ", ".join(plan.teachers) or "none"
        raise RecipeError(
            f"{run.path}: expected one teacher, the run has {there}; give another run whose "
            "student is the teacher (--teacher)"
        )
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
