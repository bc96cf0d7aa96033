"""A study of seconds: two arms, two seeds, two trials each, on real digits."""

import copy
import json
from pathlib import Path
from typing import Any

from limbeck.files import write_json, write_text
from limbeck.studies.folder import StudyFolder
from limbeck.studies.planning import PlannedRun, StudyPlan

TEACHER = {
    "student": {"model": "cnn", "channels": [4, 8]},
    "method": "plain",
    "train": {"epochs": 2, "batch_size": 50},
}
TINY: dict[str, Any] = {
    "name": "tiny",
    "recipe": {
        "data": {"name": "digits", "num_train": 200},
        "student": {"model": "cnn", "channels": [2, 4]},
        "method": "plain",
        "train": {"epochs": 2, "batch_size": 50},
    },
    "seeds": [0, 1],
    "tuning": {"seeds": [7]},
    "arms": {
        "plain": {
            "reference": True,
            "description": "cross-entropy alone",
            "grid": {"train.optimizer.lr": [0.05, 0.1]},
        },
        "kd": {
            "set": {"method": "kd", "teacher": {"train": TEACHER}},
            "trials": [{"method.temperature": 1}, {"method.temperature": 4}],
        },
    },
    "claims": {"kd-helps": {"says": "KD helps.", "smallest_effect": 0.01}},
    "compare": [{"claim": "kd-helps", "arm": "kd", "baseline": "plain"}],
    "scales": {"quick": {"seeds": [0], "trials": 1, "arms": ["plain"]}},
}


def tiny(**changes: Any) -> dict[str, Any]:
    """The tiny study with dotted keys (``__`` for the dot) changed; a value of ... removes one."""
    study = copy.deepcopy(TINY)
    for key, value in changes.items():
        *path, last = key.split("__")
        holder = study
        for part in path:
            holder = holder[part]
        if value is ...:
            del holder[last]
        else:
            holder[last] = value
    return study


def pretend(
    folder: StudyFolder,
    run: PlannedRun,
    test: dict[str, float],
    validation: dict[str, float] | None = None,
    **more: Any,
) -> Path:
    """Write the run folder that a finished run would have left, with these metrics."""
    import yaml

    place = folder.place(run)
    write_text(place / "recipe.yaml", yaml.safe_dump(run.document))
    write_text(place / "metrics.jsonl", json.dumps({"kind": "epoch", "epoch": 0, "step": 1}) + "\n")
    summary = {
        "format": 1,
        "name": run.recipe.name,
        "status": "done",
        "seed": run.recipe.seed,
        "steps": 8,
        "seconds": 2.0,
        "metrics": {"test": test, "validation": validation or test},
        "teachers": {},
        **more,
    }
    write_json(place / "summary.json", summary)
    return place


def pretend_all(
    plan: StudyPlan, folder: StudyFolder, scores: dict[str, dict[int, float]], metric: str
) -> None:
    """Pretend that all runs of a study are done: arm label -> seed -> test metric."""
    for arm in plan.arms:
        for number, (_, run) in enumerate(plan.tuning_runs(arm)):
            pretend(folder, run, {metric: 0.0}, {"accuracy": 0.5 - 0.1 * number})
        for seed, value in scores[arm.label].items():
            pretend(folder, arm.trials[0].run(seed), {metric: value})
