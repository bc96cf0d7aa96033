"""Running recipes: what ``limbeck run``, ``resume`` and ``evaluate`` do, for Python too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.data.batch import Batch
from limbeck.data.bundle import DataBundle
from limbeck.data.loader import eval_batches
from limbeck.engine.distributed import joined_world
from limbeck.engine.evaluate import collect, score
from limbeck.engine.measuring import EVAL_BATCH
from limbeck.engine.run_folder import RunFolder
from limbeck.engine.running import Outcome, run_plan
from limbeck.errors import CheckpointError, LimbeckError, RecipeError, unknown
from limbeck.files import check_place
from limbeck.models import load_model
from limbeck.models.calling import call_model
from limbeck.recipe.build import Workshop, build_plan
from limbeck.recipe.loading import load_recipe
from limbeck.recipe.overrides import Overrides
from limbeck.recipe.plain import join_key, show
from limbeck.recipe.resolved import resolved
from limbeck.recipe.schema import Recipe
from limbeck.recipe.summary import describe_plan
from limbeck.recipe.teacher_store import Store
from limbeck.recipe.telling import tell
from limbeck.taps.outputs import as_outputs

SPLITS = ("train", "validation", "test")
_FREE_TO_DIFFER = ("output", "trackers", "checkpoints")


def default_output(recipe: Recipe) -> Path:
    """Return the folder of a recipe's run: its ``output``, or ``runs/<name>-<seed>``."""
    if recipe.output is not None:
        return Path(recipe.output)
    return Path("runs") / f"{recipe.name}-{recipe.seed}"


def run_recipe(
    source: str | Path | Mapping[str, Any] | Recipe,
    overrides: Overrides = (),
    *,
    output: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    dry_run: bool = False,
    allow_code: bool = False,
    say: Callable[[str], None] = tell,
) -> Outcome | None:
    """Run a recipe into a folder, its teachers first.

    Args:
        source: a recipe, a YAML file, or a mapping.
        overrides: see :func:`limbeck.recipe.load_recipe`.
        output: the run's folder; None: the recipe's ``output``, or ``runs/<name>-<seed>``.
        resume: go on with the run in the folder; where there is none, start it.
        quiet: say nothing.
        dry_run: check everything and say what would be done; train nothing.
        allow_code: also import models from code that is not installed.
        say: gets each line for a person.

    Returns:
        the finished run; None after a dry run.

    Raises:
        LimbeckError: in one line, what does not fit; before training where that can be known.
    """
    recipe = source if isinstance(source, Recipe) else load_recipe(source, overrides)
    folder = default_output(recipe) if output is None else Path(output)
    options = {"resume": resume, "quiet": quiet, "dry_run": dry_run, "allow_code": allow_code}
    with joined_world() as world:
        # All ranks act on what the first one sees: it may be about to make the folder.
        begun = world.share((folder / "recipe.yaml").exists())
        if not begun:
            world.lead(lambda: check_place(folder))
        return _run(recipe, folder, begun, say if world.leads and not quiet else _nobody, **options)


def _run(
    recipe: Recipe,
    folder: Path,
    begun: bool,
    say: Callable[[str], None],
    *,
    resume: bool,
    quiet: bool,
    dry_run: bool,
    allow_code: bool,
) -> Outcome | None:
    if begun and not resume and not dry_run:
        again = f"limbeck resume {folder}{' --allow-code' if allow_code else ''}"
        raise RecipeError(
            f"output: {folder} holds a run already; go on with it ({again}) or choose another "
            "folder (--output)"
        )
    if begun and resume:
        _check_same(recipe, RunFolder.open(folder))
    plan = build_plan(
        recipe, allow_code=allow_code, train_teachers=not dry_run, say=say, quiet=quiet
    )
    for line in describe_plan(plan):
        say(line)
    if dry_run:
        note = ", which holds a run already: give another with --output" if begun else ""
        say(f"output would be {folder}{note}; nothing was trained")
        return None
    outcome = run_plan(plan, folder, resume=begun and resume, quiet=quiet)
    for line in headlines(outcome):
        say(line)
    return outcome


def resume_run(
    folder: str | Path,
    *,
    quiet: bool = False,
    allow_code: bool = False,
    say: Callable[[str], None] = tell,
) -> Outcome:
    """Go on with an interrupted run, by its own recipe.

    Raises:
        CheckpointError: no run there, or one that was started from Python objects.
    """
    run = RunFolder.open(folder)
    again = f"output={str(run.path)!r}, resume=True"
    outcome = run_recipe(
        recipe_of(run, in_python=f"go on in Python: limbeck.distill(..., {again})"),
        output=run.path,
        resume=True,
        quiet=quiet,
        allow_code=allow_code,
        say=say,
    )
    assert outcome is not None
    return outcome


def recipe_of(run: RunFolder, overrides: Overrides = (), in_python: str = "") -> Recipe:
    """Return the recipe of a run folder.

    Args:
        run: the folder.
        overrides: see :func:`limbeck.recipe.load_recipe`.
        in_python: what to do in Python instead, where no recipe can say the run.

    Raises:
        CheckpointError: the run was started from Python objects, which no recipe can say.
    """
    document = run.recipe
    if _holds_python(document):
        raise CheckpointError(
            f"{run.path}: was started from Python objects, which recipe.yaml cannot rebuild; "
            f"{in_python}"
        )
    return load_recipe(document, overrides, folder=run.path)


def data_of(run: RunFolder, in_python: str = "", overrides: Overrides = ()) -> DataBundle:
    """Return the data of a run folder, as its recipe says; see :func:`recipe_of`."""
    return Workshop(Store()).data(recipe_of(run, overrides, in_python))


def finished_run(folder: str | Path) -> RunFolder:
    """Open a run that is done; CheckpointError for another."""
    run = RunFolder.open(folder)
    if run.summary.get("status") != "done":
        raise CheckpointError(f"{run.path}: not finished; go on with: limbeck resume {run.path}")
    return run


def evaluate_run(
    folder: str | Path,
    split: str = "test",
    overrides: Overrides = (),
    *,
    allow_code: bool = False,
) -> dict[str, float]:
    """Measure the student of a finished run on one split of its data.

    Args:
        folder: the run's folder.
        split: "test", "validation" or "train".
        overrides: changes to the run's recipe: other data, say.
        allow_code: also import models from code that is not installed.

    Returns:
        metrics by name. Agreement with the teacher is among them on the test split of the run's
        own data, from the answers that the run kept.
    """
    if split not in SPLITS:
        raise RecipeError("split: " + unknown("split", split, SPLITS))
    run = RunFolder.open(folder)
    recipe = recipe_of(run, overrides, f"its metrics are in {run.path / 'summary.json'}")
    finished_run(run.path)
    data = Workshop(Store()).data(recipe)
    student = load_model(run.student, allow_code=allow_code)

    def ask(batch: Batch) -> Tensor:
        return as_outputs(call_model(student, batch.inputs)).logits

    batches = eval_batches(data.splits[split], EVAL_BATCH, data.augment_eval)
    answers = collect(ask, batches, torch.device("cpu"), modules=[student])
    logits = answers.logits[0]
    same_data = split == "test" and not overrides
    teacher = _kept_answers(run, len(logits)) if same_data else None
    return score(data.task, logits, answers.targets, teacher, data.groups.get(split))


def headlines(outcome: Outcome) -> list[str]:
    """Return the lines that end a run: test metrics, and where things are."""
    scores = outcome.summary.get("metrics", {}).get("test", {})
    shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
    path = outcome.folder.path
    lines = [f"test: {shown}"] if shown else []
    return [*lines, f"student: {outcome.folder.student}", f"report: limbeck report {path}"]


def _nobody(line: str) -> None:
    """Say nothing."""


def _check_same(recipe: Recipe, run: RunFolder) -> None:
    """Refuse to go on with a run by another recipe than its own."""
    was, now = _flat(run.recipe), _flat(resolved(recipe))
    for key in dict.fromkeys([*now, *was]):
        if key.split(".")[0] in _FREE_TO_DIFFER or was.get(key) == now.get(key):
            continue
        raise RecipeError(
            f"{key}: the run in {run.path} has {show(was.get(key))}, the recipe "
            f"{show(now.get(key))}; go on with the run's own recipe (limbeck resume {run.path}) or "
            "choose another folder (--output)"
        )


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    items = (
        value.items()
        if isinstance(value, Mapping)
        else enumerate(value)
        if isinstance(value, list) and value
        else None
    )
    if not items:
        return {key: value}
    found: dict[str, Any] = {}
    for part, item in items:
        found |= _flat(item, join_key(key, part))
    return found


def _holds_python(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "python" in value or any(_holds_python(item) for item in value.values())
    return isinstance(value, list) and any(_holds_python(item) for item in value)


def _kept_answers(run: RunFolder, num_samples: int) -> Tensor | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not run.predictions.is_file():
        return None
    try:
        kept = load_file(run.predictions).get("teacher_logits")
    except (SafetensorError, OSError) as error:
        raise LimbeckError(f"{run.predictions}: cannot be read ({error})") from error
    return kept if kept is not None and len(kept) == num_samples else None
