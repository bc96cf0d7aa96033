"""Running a plan from the first step to the summary, or from where it stopped."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from limbeck.data.vocabulary import FOLDER as TOKENIZER
from limbeck.engine.asking import members_of
from limbeck.engine.distiller import Distiller
from limbeck.engine.distributed import World, joined_world
from limbeck.engine.environment import environment
from limbeck.engine.evaluate import HIGHER_IS_BETTER
from limbeck.engine.logbook import Console
from limbeck.engine.measuring import Judge, cost_of
from limbeck.engine.plan import Plan
from limbeck.engine.run_folder import RunFolder
from limbeck.engine.settings import Train
from limbeck.engine.setup import assemble, example_batch
from limbeck.engine.signals import Interrupted
from limbeck.engine.threads import choose_threads
from limbeck.errors import CheckpointError, LimbeckError, RecipeError
from limbeck.files import write_bytes, write_json
from limbeck.models import save_model
from limbeck.models.calling import restore_attention
from limbeck.models.cohort import CohortMean, cohort_mean_spec
from limbeck.models.grown import name_of
from limbeck.models.pretrained_config import say_expected_inputs


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        folder: the run's folder.
        student: the deployed student, a plain module in evaluation mode, on the CPU or its GPU.
        summary: what summary.json says.
    """

    folder: RunFolder
    student: nn.Module
    summary: Mapping[str, Any]


def run_plan(
    plan: Plan, folder: Path | str, *, resume: bool = False, quiet: bool = False
) -> Outcome:
    """Train a student by a plan into a folder.

    Args:
        plan: what to do.
        folder: the run's folder; made here unless ``resume``.
        resume: go on from the newest checkpoint in ``folder``.
        quiet: print nothing.

    Returns:
        the finished run; on ranks other than 0 too.

    Raises:
        LimbeckError: what the user can mend, in one line.
        Interrupted: after Ctrl-C, with a checkpoint written.
    """
    with one_setting(plan.train), joined_world() as world:
        return _run_in(world, plan, RunFolder(folder), resume, quiet)


@contextmanager
def one_setting(train: Train) -> Iterator[None]:
    """Hold torch to a run's number of threads, and to deterministic algorithms where asked."""
    with _threads(train.threads), _deterministic(train.deterministic):
        yield


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    """Hold torch to its threads; afterwards the caller has as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(choose_threads(wanted)[0])
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Hold torch to deterministic algorithms; not touched unless asked (it loads a compiler)."""
    if not wanted or torch.are_deterministic_algorithms_enabled():
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else matrix products may differ
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def _told_of_no_deterministic_form() -> Iterator[None]:
    """Say in one line what torch refuses to do in deterministic mode.

    Raises:
        RecipeError: something in the run has no deterministic form on this device.
    """
    try:
        yield
    except RuntimeError as error:
        if found := re.match(r"(\w+) does not have a deterministic implementation", str(error)):
            raise RecipeError(
                f"train.deterministic: torch has no deterministic form of {found[1]} on this "
                "device; set it to false, or do without what calls it"
            ) from error
        if "CUBLAS_WORKSPACE_CONFIG" in str(error):  # read by torch once, and too late here
            raise RecipeError(
                "train.deterministic: this process used the GPU before without it, which cannot be "
                "made good; set CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment before it starts"
            ) from error
        raise


def _run_in(world: World, plan: Plan, folder: RunFolder, resume: bool, quiet: bool) -> Outcome:
    if resume:
        RunFolder.open(folder.path)
    else:
        world.lead(folder.refuse_to_overwrite)
    try:
        parts = assemble(plan, world)
        judge = Judge(plan, parts, world)
        if not resume:
            world.lead(lambda: _create(folder, plan, world))
    except BaseException:  # what does not fit leaves no folder behind, and no hook
        for teacher in plan.teachers.values():
            teacher.close()
        raise
    console = Console(plan.train.epochs, quiet=quiet or not world.leads, label=plan.name)
    run: Distiller | None = None
    try:
        run = Distiller(plan, folder, world, console, parts, judge)
        if plan.train.compile:
            console.say("compiling: the first steps take a minute or more")
        with _told_of_no_deterministic_form():
            if not (resume and _went_on(run)):
                run.start()
            run.fit()
            return _finish(run)
    except (Interrupted, KeyboardInterrupt):
        _mark(folder, world, "interrupted", "")
        raise
    except LimbeckError as error:
        _mark(folder, world, "failed", str(error))
        raise
    finally:
        console.close()
        if run is None:
            parts.close()
        else:
            run.close()


def _create(folder: RunFolder, plan: Plan, world: World) -> None:
    folder.create(plan.recipe, plan.name)
    write_json(folder.path / "environment.json", environment(world.size, world.device.type))


def _went_on(run: Distiller) -> bool:
    """Continue from a checkpoint; False where the run stopped before its first one."""
    try:
        notes = run.keeper.restore()
    except CheckpointError:
        if any(run.folder.checkpoints.glob("*step-*")):
            raise
        run.logbook.restart()
        return False
    for note in notes:
        run.console.say(note)
    position, epochs = run.position, run.train.epochs
    epoch = min(position.epoch + 1, epochs)
    run.console.say(f"resumed at epoch {epoch}/{epochs}, step {position.step}")
    return True


def _mark(folder: RunFolder, world: World, status: str, reason: str) -> None:
    """Note in the summary how the run ended, where the disk still lets us."""
    if not world.leads:
        return
    try:
        summary = {**folder.summary, "status": status}
        summary.pop("format", None)
        if reason:
            summary["reason"] = reason
        folder.write_summary(summary)
    except LimbeckError:  # a full disk: the error on its way up says so
        pass


def _finish(run: Distiller) -> Outcome:
    """Deploy the student, measure it once on test, and write the summary."""
    run.keeper.restore_best()
    student = _deploy(run)
    return Outcome(run.folder, student, run.world.lead(lambda: _conclude(run, student)))


def _conclude(run: Distiller, student: nn.Module) -> dict[str, Any]:
    began = time.perf_counter()
    summary = _summarise(run, student)
    run.logbook.write_timing({"final_seconds": time.perf_counter() - began})
    run.folder.write_summary(summary)
    return summary


def _deploy(run: Distiller) -> nn.Module:
    """Return the plain student, or of a cohort the chosen member or the mean of all.

    In eval mode, without hooks, and without what served training only.
    """
    run.parts.voice.close()
    members = members_of(run.deployable)
    for index, member in enumerate(members):
        member = run.parts.module.stripped(member, index)
        restore_attention(member)
        members[index] = member
        data = run.plan.data
        say_expected_inputs(member, data.normalization, data.input_shape, data.num_outputs)
    if len(members) == 1:
        return members[0].eval()
    if run.plan.cohort == "ensemble":
        return CohortMean(members).eval()
    return members[run.keeper.best.member].eval()


def _deployed_spec(run: Distiller, student: nn.Module) -> Mapping[str, Any] | None:
    """Return how to rebuild what is deployed; None where it is not known."""
    given = run.plan.student_spec
    specs = list(given) if isinstance(given, list | tuple) else [given]
    chosen, students = [run.keeper.best.member if len(specs) > 1 else 0], [student]
    if run.plan.cohort == "ensemble" and len(specs) > 1:
        chosen, students = list(range(len(specs))), list(student.members)  # type: ignore[arg-type]
    found = []
    for index, one in zip(chosen, students, strict=True):
        spec = specs[index]
        for runtime in run.parts.module.member_runtimes(index):
            spec = runtime.deployed_spec(spec, one)
        found.append(spec)
    return cohort_mean_spec(found) if len(found) > 1 else found[0]


def _summarise(run: Distiller, student: nn.Module) -> dict[str, Any]:
    plan, best = run.plan, run.keeper.best
    metrics, predictions = run.judge.final(student)
    tail = _tail(run.folder)
    for split, scores in metrics.items():
        run.logbook.write(
            {
                "kind": "eval",
                "epoch": run.position.epoch - 1,
                "step": run.position.step,
                "split": split,
                "final": True,
                **scores,
            }
        )
    if predictions:
        contiguous = {name: value.contiguous() for name, value in predictions.items()}
        write_bytes(run.folder.predictions, save(contiguous))
    spec = _deployed_spec(run, student)
    stats = plan.data.normalization
    extra: dict[str, Any] = {
        "class_names": list(plan.data.class_names),
        "normalisation": None
        if stats is None
        else {"mean": list(stats.mean), "std": list(stats.std)},
    }
    if plan.data.superclasses:
        extra["superclasses"] = {k: v.tolist() for k, v in plan.data.superclasses.items()}
    vocabulary = plan.data.vocabulary
    if vocabulary is not None:
        extra["vocabulary"] = vocabulary.describe()
        vocabulary.save(run.folder.student / TOKENIZER)
    save_model(student, run.folder.student, spec, extra)
    example = example_batch(plan, run.world.device).inputs
    model = name_of(spec) or type(student).__name__
    return {
        "name": plan.name,
        "status": "done",
        "deployed": plan.train.deploy,
        "best_epoch": best.epoch,
        "best_member": -1 if plan.cohort == "ensemble" else best.member,
        "metrics": {**metrics, "train": tail} if tail else metrics,
        "student": {"model": model, **cost_of(student, example)},
        "teachers": run.judge.teacher_summary(example),
        "method": [method.describe() for method in plan.methods],
        "task": plan.data.task,
        "data": plan.data.describe(),
        "task_weight": run.parts.task_weight,
        "seed": plan.seed,
        "steps": run.position.step,
        "samples_seen": run.position.samples,
        "seconds": _seconds(run.folder),
    }


def _tail(folder: RunFolder) -> dict[str, float]:
    """Return the mean of what was measured on the training part in the last epochs.

    Among it are metrics that methods report of the steps of an epoch, such as gradient_cosine.
    """
    import json

    rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    measured = {
        row["epoch"]: {k: row[k] for k in row if k not in ("kind", "epoch", "step", "split")}
        for row in rows
        if row["kind"] == "eval" and row["split"] == "train"
    }
    for row in rows:
        if row["kind"] == "epoch" and row["epoch"] in measured:
            told = {key.rpartition("/")[2]: row[key] for key in row if "/" in key}
            known = [key for key in told if f"train_{key}" in HIGHER_IS_BETTER]
            measured[row["epoch"]] |= {key: told[key] for key in known}
    every = list(measured.values())
    names = sorted(set.intersection(*map(set, every))) if every else []
    return {name: math.fsum(row[name] for row in every) / len(every) for name in names}


def _seconds(folder: RunFolder) -> float:
    """Seconds spent in training epochs, interruptions left out."""
    import json

    lines = folder.timing.read_text().splitlines()
    return sum(float(json.loads(line).get("seconds", 0.0)) for line in lines)
