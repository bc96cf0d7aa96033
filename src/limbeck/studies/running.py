"""Running a study: every run a folder, several at once, each found again when it is finished."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from limbeck.errors import DataError, RecipeError
from limbeck.files import check_place, write_json
from limbeck.recipe.overrides import Overrides
from limbeck.recipe.telling import tell
from limbeck.studies.choosing import choose, why_none
from limbeck.studies.crew import Answer, Crew
from limbeck.studies.estimate import describe_work, seconds_known
from limbeck.studies.folder import StudyFolder
from limbeck.studies.loading import load_study
from limbeck.studies.planning import PlannedArm, PlannedRun, StudyPlan, plan_study
from limbeck.studies.progress import Progress, progress_for
from limbeck.studies.results import StudyResults, study_results

Say = Callable[[str], None]


class StudyInterrupted(KeyboardInterrupt):
    """The study was interrupted; its runs have checkpoints, and the same call goes on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


def run_study(
    source: str | Path | Mapping[str, Any],
    overrides: Overrides = (),
    *,
    scale: str | None = None,
    output: str | Path | None = None,
    jobs: int | None = None,
    dry_run: bool = False,
    report_only: bool = False,
    retry_failed: bool = False,
    quiet: bool = False,
    allow_code: bool = False,
    say: Say = tell,
) -> StudyResults | None:
    """Run a study, or go on with it; then work out its statistics from the run folders.

    Runs that are finished are found again by their content, whatever they are called; a changed
    setting is a new run. Each arm's setting is chosen on validation over the tuning seeds, the
    same number of trials for every arm; test metrics are read once, of the chosen settings.

    Args:
        source: a study, as a YAML file or a mapping.
        overrides: changes to the recipe that all runs start from (``train.epochs=5``).
        scale: one of the study's scales; None: the study as written.
        output: the study's folder; None: ``runs/<name>``.
        jobs: runs at once, each a process of one thread; None: one for each core.
        dry_run: say what would be run and about how long that takes; run nothing.
        report_only: run nothing; work out the statistics of what there is.
        retry_failed: run again what has failed before.
        quiet: say nothing.
        allow_code: also import models from code that is not installed.
        say: gets each line for a person.

    Returns:
        the results, also written to ``results.json`` in the folder; None after a dry run.

    Raises:
        LimbeckError: in one line, what is wrong with the study; before anything runs.
        StudyInterrupted: after Ctrl-C; every run in hand has a checkpoint.
    """
    if jobs is not None and jobs < 1:
        raise RecipeError(f"jobs: expected at least 1, got {jobs}")
    say = _nobody if quiet else say
    plan = plan_study(load_study(source, scale), overrides)
    folder = StudyFolder(Path("runs") / plan.study.name if output is None else Path(output))
    workers = min(jobs or _cores(), plan.most_runs)
    if dry_run:
        for line in describe_work(plan, folder, workers, every_run=True):
            say(line)
        return None
    if not report_only:
        check_place(folder.path)
        with folder.alone():
            folder.write_down_claims(plan.loaded.whole)
            for line in describe_work(plan, folder, workers):
                say(line)
            progress = progress_for(quiet, say)
            _Runner(plan, folder, workers, progress, retry_failed, allow_code).run()
    results = study_results(plan, folder)
    if results.has_runs:
        write_json(folder.path / "results.json", results.as_json())
    return results


class _Runner:
    """Gives out runs: first those that choose the settings, then the chosen ones."""

    def __init__(
        self,
        plan: StudyPlan,
        folder: StudyFolder,
        workers: int,
        progress: Progress,
        retry_failed: bool,
        allow_code: bool,
    ) -> None:
        self.plan, self.folder, self.progress = plan, folder, progress
        self.workers, self.allow_code = workers, allow_code
        self.retry_failed = retry_failed
        self.waiting: deque[tuple[str, PlannedRun]] = deque()
        self.seen: dict[str, tuple[str, PlannedRun]] = {}
        self.open_arms: list[PlannedArm] = list(plan.arms)
        self.began: dict[str, float] = {}
        self.any_done = False

    def run(self) -> None:
        """Run all that is not finished."""
        for arm in self.plan.arms:
            for trial, run in self.plan.tuning_runs(arm):
                self._add(run, f"{arm.label}, trial {trial.label}")
        self._open_next()
        with (
            self.progress.shown(self._total, seconds_known(self.plan, self.folder), self.workers),
            Crew(self.workers) as crew,
            _termination_is_an_interrupt(),
        ):
            try:
                self._work(crew)
            except KeyboardInterrupt:
                with _no_second_interrupt():
                    self.progress.note("stopping: each run finishes its step, then a checkpoint")
                    crew.stop()
                raise StudyInterrupted(self.folder.path) from None

    def _work(self, crew: Crew) -> None:
        while self.waiting or crew.busy:
            while self.waiting and crew.has_room:
                label, run = self.waiting.popleft()
                crew.give(self._job(run))
                self.began[run.digest] = time.monotonic()
                self.progress.start(run.digest, label)
            answer = crew.wait(timeout=0.5)
            if answer is not None:
                self._heard(answer)

    def _job(self, run: PlannedRun) -> dict[str, Any]:
        return {
            "id": run.digest,
            "recipe": run.document,
            "folder": str(self.folder.place(run).absolute()),
            "lock": str(self.folder.lock_of(run).absolute()),
            "store": str(self.folder.teachers.absolute()),
            "allow_code": self.allow_code,
        }

    def _heard(self, answer: Answer) -> None:
        label, run = self.seen[answer.id]
        if answer.event == "note":
            self.progress.note(f"{label}: {answer.text}")
            return
        seconds = time.monotonic() - self.began[run.digest]
        if answer.event == "done":
            self.any_done = True
            self.progress.finish(run.digest, label, seconds, self._validation(run))
        elif answer.event == "stopped":  # by someone else; it has a checkpoint
            self.progress.note(f"{label}: its process was stopped; it goes on in another")
            self.waiting.append((label, run))
        else:
            self._failed(answer, label, run)
        self._open_next()

    def _failed(self, answer: Answer, label: str, run: PlannedRun) -> None:
        missing_data = answer.kind == DataError.__name__ and not self.folder.place(run).exists()
        if missing_data and not self.any_done:  # all runs would fail of it, one after another
            raise DataError(f"{label}: {answer.text}")
        place = self.folder.keep_apart(run, answer.text, answer.details)
        self.progress.fail(run.digest, label, f"{answer.text} (kept apart in {place})")

    def _validation(self, run: PlannedRun) -> str:
        metric = self.plan.study.tuning.metric
        scores = (self.folder.finished(run) or {}).get("metrics", {}).get("validation", {})
        return f"validation {metric} {scores[metric]:.4g}" if metric in scores else ""

    def _open_next(self) -> None:
        """Give out the final runs of every arm whose trial is chosen by now."""
        for arm in list(self.open_arms):
            trial = choose(self.plan, arm, self.folder)
            if trial is not None:
                self.open_arms.remove(arm)
                if self.plan.is_tuned:
                    self.progress.note(f"{arm.label}: chosen on validation: {trial.label}")
                for run in self.plan.final_runs(trial):
                    self._add(run, arm.label)
            elif reason := why_none(self.plan, arm, self.folder):
                self.open_arms.remove(arm)
                self.progress.note(f"{arm.label}: {reason}")

    def _add(self, run: PlannedRun, label: str) -> None:
        """Queue a run unless it is finished, has failed, or is queued already."""
        label = f"{label}, seed {run.recipe.seed}"
        if run.digest in self.seen:
            return
        self.seen[run.digest] = (label, run)
        if self.folder.finished(run) is not None:
            self.progress.found()
            return
        failure = self.folder.failure(run)
        if failure is not None and not self.retry_failed:
            self.progress.fail(run.digest, label, f"failed before: {failure} (--retry-failed)")
            return
        if failure is not None:
            self.folder.forget_failure(run)
        self.waiting.append((label, run))

    def _total(self) -> int:
        """How many runs there are, as far as is known: arms still to be chosen count in full."""
        return len(self.seen) + len(self.open_arms) * len(self.plan.study.seeds)


@contextmanager
def _termination_is_an_interrupt() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, in the main thread, where signals can be minded."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _no_second_interrupt() -> Iterator[None]:
    """Let the workers write their checkpoints in peace."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _nobody(line: str) -> None:
    """Say nothing."""
