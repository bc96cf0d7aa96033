"""Choosing: which trial of an arm goes on, by validation alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from limbeck.engine.evaluate import HIGHER_IS_BETTER
from limbeck.studies.folder import StudyFolder
from limbeck.studies.planning import PlannedArm, StudyPlan, Trial


@dataclass(frozen=True)
class Tried:
    """A trial and what came of it.

    Attributes:
        trial: the trial.
        mean: mean validation metric over the tuning seeds; NaN where a run is missing.
        reason: why it is out, where a run failed; else empty.
    """

    trial: Trial
    mean: float
    reason: str = ""

    @property
    def counts(self) -> bool:
        """Whether it can be chosen."""
        return not math.isnan(self.mean)

    @property
    def waits(self) -> bool:
        """Whether runs are still missing."""
        return not self.counts and not self.reason


def tried(plan: StudyPlan, arm: PlannedArm, folder: StudyFolder) -> list[Tried]:
    """Return an arm's trials with their validation means; test metrics are not read."""
    metric, seeds = plan.study.tuning.metric, plan.study.tuning.seeds
    return [_tried(trial, metric, seeds, folder) for trial in arm.trials]


def _tried(trial: Trial, metric: str, seeds: tuple[int, ...], folder: StudyFolder) -> Tried:
    values = []
    for seed in seeds:
        run = trial.run(seed)
        summary = folder.finished(run)
        if summary is None:
            return Tried(trial, math.nan, folder.failure(run) or "")
        value = summary.get("metrics", {}).get("validation", {}).get(metric)
        if not isinstance(value, int | float) or math.isnan(value):
            return Tried(trial, math.nan, f"validation {metric} was not measured")
        values.append(float(value))
    return Tried(trial, math.fsum(values) / len(values))


def choose(plan: StudyPlan, arm: PlannedArm, folder: StudyFolder) -> Trial | None:
    """Return the trial that goes on: the best on validation, the earliest of equals.

    None while runs are missing, or where every trial failed (:func:`why_none` tells which).
    """
    if not plan.is_tuned:
        return arm.trials[0]
    found = tried(plan, arm, folder)
    if any(one.waits for one in found) or not any(one.counts for one in found):
        return None
    sign = 1.0 if HIGHER_IS_BETTER[plan.study.tuning.metric] else -1.0
    return max((one for one in found if one.counts), key=lambda one: sign * one.mean).trial


def why_none(plan: StudyPlan, arm: PlannedArm, folder: StudyFolder) -> str:
    """Return why an arm has no chosen trial, in a line; empty where runs are only missing."""
    found = tried(plan, arm, folder)
    if any(one.waits or one.counts for one in found):
        return ""
    return f"every trial failed; the first: {found[0].reason}"
