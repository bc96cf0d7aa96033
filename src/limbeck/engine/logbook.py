"""What a run tells: the log of record, trackers, and a person at a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from limbeck.engine.distributed import World
from limbeck.engine.run_folder import Log, RunFolder
from limbeck.engine.trackers import Tracker, make_trackers


class Logbook:
    """Gathers terms without touching the host, and writes means every few steps.

    Args:
        folder: the run's folder.
        world: only rank 0 writes.
        trackers: names of trackers to feed too, once :meth:`begin` was called.
    """

    def __init__(self, folder: RunFolder, world: World, trackers: Iterable[str] = ()) -> None:
        self._world = world
        self._folder = folder
        self._wanted = tuple(trackers) if world.leads else ()
        self._log = Log(folder.metrics) if world.leads else None
        self._timing = Log(folder.timing) if world.leads else None
        self._trackers: list[Tracker] = []
        self._sums: dict[str, float] = {}
        self._heard: dict[str, list[Tensor]] = {}  # since the sums were last brought up to date
        self._count = 0
        self.latest: dict[str, float] = {}

    def begin(self, step: int) -> None:
        """Open the trackers; what an earlier process told them of later steps is dropped."""
        self._trackers = make_trackers(self._wanted, self._folder, step)

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Take one micro-batch's share of the terms of a step, detached scalars."""
        for name, value in terms.items():
            self._heard.setdefault(name, []).append(value)

    def step_done(self) -> None:
        """Count one optimiser step."""
        self._count += 1

    def flush(self, *, epoch: int, step: int, lr: float) -> None:
        """Write the mean of the terms since the last line; nothing if no step was done."""
        if not self._count:
            return
        self._add_up()
        self.latest = {name: total / self._count for name, total in self._of_all_ranks().items()}
        self._sums, self._count = {}, 0
        self.write({"kind": "train", "epoch": epoch, "step": step, **self.latest, "lr": lr})

    def _add_up(self) -> None:
        """Bring the sums up to date: in double precision, one after the other."""
        heard = [(name, value) for name, values in self._heard.items() for value in values]
        told = torch.stack([value for _, value in heard]).tolist() if heard else []
        for (name, _), value in zip(heard, told, strict=True):
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._heard = {}

    def _of_all_ranks(self) -> dict[str, float]:
        """Return the sums over all ranks, which must all call it."""
        names = sorted(self._sums)
        if not names:
            return {}
        mine = [self._sums[name] for name in names]
        totals = torch.tensor(mine, dtype=torch.float64, device=self._world.device)
        return dict(zip(names, self._world.sum(totals).tolist(), strict=True))

    def write(self, record: Mapping[str, Any]) -> None:
        """Write one record of the log, and its numbers to the trackers."""
        if self._log is None:
            return
        self._log.write(record)
        prefix = record["split"] if record["kind"] == "eval" else record["kind"]
        prefix = f"final/{prefix}" if record.get("final") else prefix
        scalars = {
            f"{prefix}/{key}": value
            for key, value in record.items()
            if isinstance(value, float) and not isinstance(value, bool)
        }
        for tracker in self._trackers:
            tracker.add(scalars, record["step"])

    def write_timing(self, record: Mapping[str, Any]) -> None:
        """Write wall-clock figures, which are no part of the log of record."""
        if self._timing is not None:
            self._timing.write(record)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a checkpoint must hold: pending sums, and where the log stands.

        Rank 0 takes over what is pending on all ranks, so that a resumed run adds the same
        numbers in the same order as one that went on.
        """
        self._add_up()
        totals = self._of_all_ranks()
        self._sums = totals if self._world.leads else dict.fromkeys(totals, 0.0)
        tensors = {
            f"log/{name}": torch.tensor(total, dtype=torch.float64)
            for name, total in self._sums.items()
        }
        return tensors, {
            "count": self._count,
            "metrics_bytes": self._log.offset() if self._log else 0,
            "timing_bytes": self._timing.offset() if self._timing else 0,
        }

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Return to where a checkpoint was taken: later lines are dropped."""
        sums = {name: float(total) for name, total in tensors.items()}
        self._sums = sums if self._world.leads else dict.fromkeys(sums, 0.0)
        self._heard = {}
        self._count = int(state["count"])
        if self._log and self._timing:
            self._log.cut(int(state["metrics_bytes"]))
            self._timing.cut(int(state["timing_bytes"]))

    def restart(self) -> None:
        """Drop all lines: the run begins anew."""
        for log in (self._log, self._timing):
            if log is not None:
                log.cut(0)

    def close(self) -> None:
        """Close files and trackers."""
        for log in (self._log, self._timing):
            if log is not None:
                log.close()
        for tracker in self._trackers:
            tracker.close()


class Console:
    """Progress for a person: a bar on a terminal, a line an epoch otherwise, or silence.

    Args:
        epochs: epochs in all.
        quiet: print nothing.
        label: what is being trained.
    """

    def __init__(self, epochs: int, *, quiet: bool = False, label: str = "train") -> None:
        from rich.console import Console as RichConsole

        self._out = RichConsole(stderr=False, highlight=False)
        self._quiet = quiet
        self._epochs = epochs
        self._label = label
        self._bar: Any = None
        self._task: Any = None
        self._started = time.monotonic()
        self._drawn = 0.0
        self._before: int | None = None  # epochs that an earlier process did
        self._scored = ""
        if not quiet and self._out.is_terminal:
            self._bar = _make_bar(self._out)
            self._task = self._bar.add_task(label, total=epochs, terms="", rate="")
            self._bar.start()

    def step(self, position: float, terms: Mapping[str, float], rate: float) -> None:
        """Show where the run is: ``position`` in epochs, the terms and samples per second."""
        if self._bar is None or time.monotonic() - self._drawn < 0.1:
            return
        self._drawn = time.monotonic()
        shown = "  ".join(f"{name} {value:.3g}" for name, value in terms.items()) + self._scored
        self._bar.update(self._task, completed=position, terms=shown, rate=f"{rate:,.0f}/s")

    def epoch(self, epoch: int, terms: Mapping[str, float], scores: Mapping[str, float]) -> None:
        """Tell of a finished epoch: in a line, or beside the bar its first score."""
        if self._quiet:
            return
        if self._bar is not None:
            for name, value in list(scores.items())[:1]:
                self._scored = f"  validation {name} {value:.3g}"
            return
        done = epoch + 1
        self._before = epoch if self._before is None else self._before
        elapsed = time.monotonic() - self._started
        left = elapsed / (done - self._before) * (self._epochs - done)
        parts = [f"{self._label}: epoch {done}/{self._epochs}"]
        parts += [f"{name} {value:.4g}" for name, value in terms.items()]
        parts += [f"validation {name} {value:.4g}" for name, value in scores.items()]
        parts.append(f"{elapsed:.0f} s, {left:.0f} s left")
        self.say("  ".join(parts))

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if not self._quiet:
            self._out.print(line, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


def _make_bar(out: Any) -> Any:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("epoch {task.completed:.1f}/{task.total}"),
        TextColumn("{task.fields[terms]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=out,
        transient=True,
    )
