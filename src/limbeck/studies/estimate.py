"""What a study takes: which runs there are, which are finished, and about how long the rest is."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator

from limbeck.studies.choosing import choose
from limbeck.studies.folder import StudyFolder
from limbeck.studies.planning import PlannedRun, StudyPlan


def duration(seconds: float) -> str:
    """Return seconds in words.

    >>> duration(42.4), duration(200), duration(7500)
    ('42 s', '3 min', '2 h 05 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def all_runs(plan: StudyPlan, folder: StudyFolder) -> Iterator[tuple[str, PlannedRun | None]]:
    """Yield (label, run) for every run; None where the trial is still to be chosen."""
    seen = set()
    for arm in plan.arms:
        for trial, run in plan.tuning_runs(arm):
            if run.digest not in seen:
                seen.add(run.digest)
                yield f"{arm.label}, trial {trial.label}, seed {run.recipe.seed}", run
    for arm in plan.arms:
        chosen = choose(plan, arm, folder)
        for seed in plan.study.seeds:
            if chosen is None:
                yield f"{arm.label}, the chosen trial, seed {seed}", None
            elif (run := chosen.run(seed)).digest not in seen:
                seen.add(run.digest)
                yield f"{arm.label}, seed {seed}", run


def seconds_known(plan: StudyPlan, folder: StudyFolder) -> dict[str, float]:
    """Return the training seconds of finished runs, by digest."""
    found = {}
    for _, run in all_runs(plan, folder):
        summary = None if run is None else folder.finished(run)
        if run is not None and summary is not None:
            found[run.digest] = float(summary.get("seconds", 0.0))
    return found


def describe_work(
    plan: StudyPlan, folder: StudyFolder, workers: int, *, every_run: bool = False
) -> list[str]:
    """Return the lines that say what a study is about to do.

    Args:
        plan: the study.
        folder: where it lies.
        workers: runs at once.
        every_run: also a line for every run.
    """
    study = plan.study
    arms = len(study.arms)
    places = len(plan.arms) // arms
    lines = [
        f"study   {study.name}" + (f", scale {plan.loaded.scale}" if plan.loaded.scale else "")
    ]
    grid = f" at {places} places of the grid" if places > 1 else ""
    lines.append(f"arms    {arms}{grid}: {', '.join(study.arms)}")
    trials = len(plan.arms[0].trials)
    if plan.is_tuned:
        on = f"{len(study.tuning.seeds)} tuning seed{'s' * (len(study.tuning.seeds) > 1)}"
        lines.append(
            f"trials  {trials} for every arm, on {on}; the best validation {study.tuning.metric} "
            "goes on"
        )
    lines.append(f"seeds   {', '.join(map(str, study.seeds))}")
    lines += [f"note    {text}" for text in plan.loaded.left_out]
    runs = list(all_runs(plan, folder))
    finished = [run for _, run in runs if run is not None and folder.finished(run) is not None]
    lines.append(
        f"runs    {len(runs)}, of which {len(finished)} are finished; {workers} at once, "
        f"one thread each{_expected(plan, folder, len(runs) - len(finished), workers)}"
    )
    lines.append(f"folder  {folder.path}")
    if every_run:
        lines += [f"  {_state(folder, run):8}  {label}" for label, run in runs]
    return lines


def _state(folder: StudyFolder, run: PlannedRun | None) -> str:
    if run is None:
        return "to come"
    if folder.finished(run) is not None:
        return "finished"
    if folder.failure(run) is not None:
        return "failed"
    return "begun" if folder.place(run).exists() else "to run"


def _expected(plan: StudyPlan, folder: StudyFolder, missing: int, workers: int) -> str:
    """Return ", about 5 min" from what is known; empty where nothing is or nothing is missing."""
    if missing == 0:
        return ""
    known = list(seconds_known(plan, folder).values())
    source = "its finished runs"
    if not known:
        known, source = _published(plan), "the results beside the study"
    if not known:
        return "; no run is finished yet, so no estimate of the time"
    return f"; about {duration(statistics.mean(known) * missing / workers)}, from {source}"


def _published(plan: StudyPlan) -> list[float]:
    """Return seconds a run from results.json beside the study's file, where there is one."""
    if plan.loaded.source is None:
        return []
    try:
        document = json.loads((plan.loaded.source.parent / "results.json").read_text())
        found = [float(arm["seconds"]) for arm in document["arms"] if arm["seconds"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return found
