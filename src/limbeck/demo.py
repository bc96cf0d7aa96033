"""The demo: a first result on real data, in the setting where distillation gives most.

Scans of digits, bundled with scikit-learn. The teacher has learned from all labels; whoever
trains the student has few labels and many scans without one, which the teacher can answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.errors import RecipeError

if TYPE_CHECKING:
    from limbeck.reports import Table

LABELS_PER_CLASS = 5
EPOCHS = 30
BATCH = 64

DATA: dict[str, Any] = {"name": "digits"}
FEW_LABELS: dict[str, Any] = {**DATA, "labels_per_class": LABELS_PER_CLASS}
TEACHER: dict[str, Any] = {
    "name": "teacher",
    "data": DATA,
    "student": {"model": "cnn"},
    "method": "plain",
    "train": {"epochs": 20, "batch_size": BATCH},
    "checkpoints": {"every_epochs": 20},
}
STUDENT: dict[str, Any] = {"model": "cnn", "channels": [8, 16]}


def demo_recipes(seeds: int, steps_per_epoch: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (folder name, recipe) of every student: alone and with KD, the same steps for both.

    Args:
        seeds: students of each kind.
        steps_per_epoch: optimiser steps of KD's epochs; a student alone sees only the labelled
            samples, one step an epoch, and so gets that many times as many epochs.
    """
    for seed in range(seeds):
        common = {"seed": seed, "data": FEW_LABELS, "student": STUDENT}
        epochs = EPOCHS * steps_per_epoch
        yield (
            f"alone-{seed}",
            {
                **common,
                "name": "student alone",
                "method": "plain",
                "train": {
                    "epochs": epochs,
                    "batch_size": BATCH,
                    "evaluate_every": steps_per_epoch,
                },
                "checkpoints": {"every_epochs": epochs},
            },
        )
        yield (
            f"kd-{seed}",
            {
                **common,
                "name": "KD",
                "method": "kd",
                "teacher": {"train": TEACHER},
                "train": {"epochs": EPOCHS, "batch_size": BATCH},
                "checkpoints": {"every_epochs": EPOCHS},
            },
        )


def run_demo(folder: Path | str, seeds: int = 5, quiet: bool = False) -> Path:
    """Train teacher and students, print the table, write the report.

    Runs that are finished already are kept, so a demo that was stopped goes on.

    Args:
        folder: where runs, teacher and report go.
        seeds: students of each kind, at least 1; intervals need 2.
        quiet: print nothing.

    Returns:
        the report's path.

    Raises:
        RecipeError: ``seeds`` is below 1.
    """
    if seeds < 1:
        raise RecipeError(f"seeds: expected at least 1, got {seeds}")
    folder = Path(folder)
    say = _Teller(quiet)
    say("Teacher: a CNN that learns from every label of scikit-learn's digits (real scans).")
    say(
        f"Students: a much smaller CNN, {LABELS_PER_CLASS} labels a class and about a thousand "
        f"scans without a label; alone, and with the teacher's answers. {seeds} seeds each."
    )
    runs = _train_all(folder, seeds, say)
    report = folder / "report.html"
    _tell_result(runs, report, say)
    return report


def _train_all(folder: Path, seeds: int, say: _Teller) -> list[Path]:
    from limbeck.data import load_data, steps_per_epoch
    from limbeck.engine.running import run_plan
    from limbeck.recipe import build_plan, load_recipe
    from limbeck.recipe.teacher_store import is_trained

    steps = steps_per_epoch(load_data(**FEW_LABELS).splits["train"], BATCH)
    recipes = list(demo_recipes(seeds, steps))
    runs: list[Path] = []
    with say.progress(len(recipes)) as advance:
        for name, document in recipes:
            run = folder / name
            if not is_trained(run):
                plan = build_plan(load_recipe(document), store=folder / "teachers", quiet=True)
                begun = (run / "recipe.yaml").exists()
                run_plan(plan, run, resume=begun, quiet=True)
            runs.append(run)
            advance(name)
    return runs


def _tell_result(runs: list[Path], report: Path, say: _Teller) -> None:
    from limbeck.reports import comparison_table, write_report

    write_report(
        runs,
        report,
        title=(
            f"Limbeck demo: digits, {LABELS_PER_CLASS} labels a class, "
            "the other scans unlabelled and answered by the teacher"
        ),
        baseline="student alone",
    )
    if not say.quiet:
        say.table(comparison_table(runs, baseline="student alone"))
    say(
        "The teacher saw labels that the students did not: that is what it hands on here. Both "
        "arms took the same number of optimiser steps."
    )
    say(f"Report: {report}")


class _Teller:
    """Says lines and shows progress, or keeps quiet."""

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console

        self.quiet = quiet
        self._console = Console(highlight=False, quiet=quiet)

    def __call__(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=not self._console.is_terminal)

    def table(self, table: Table) -> None:
        """Print a table as wide as the terminal."""
        self._console.print(table.to_rich(self._console.width))

    def progress(self, total: int) -> Any:
        """Return a context that gives a function to call for each student that is done."""
        from contextlib import contextmanager

        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        @contextmanager
        def shown() -> Iterator[Any]:
            if not self._console.is_terminal or self.quiet:
                yield lambda name: self(f"  {name} done")
                return
            columns = (
                TextColumn("training students"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[last]}"),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self._console, transient=True) as bar:
                task = bar.add_task("students", total=total, last="teacher first")
                yield lambda name: bar.update(task, advance=1, last=name)

        return shown()
