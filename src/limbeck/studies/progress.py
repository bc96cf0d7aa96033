"""Progress of a study: a bar with time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from limbeck.studies.estimate import duration


class Progress:
    """Counts runs and says so in plain lines.

    Args:
        say: gets each line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.ended = 0
        self.seconds: list[float] = []
        self.working: dict[str, str] = {}
        self._total: Callable[[], int] = lambda: 0
        self._workers = 1

    @contextmanager
    def shown(
        self, total: Callable[[], int], known: Mapping[str, float], workers: int
    ) -> Iterator[None]:
        """Show progress while the block runs.

        Args:
            total: how many runs there are by now.
            known: seconds of runs that are finished, by digest.
            workers: runs at once.
        """
        self._total, self._workers = total, workers
        self.seconds = list(known.values())
        yield

    @property
    def left(self) -> str:
        """About how long the rest takes, as text; empty where nothing is known."""
        missing = self._total() - self.ended
        if not self.seconds or missing <= 0:
            return ""
        recent = self.seconds[-50:]
        return f"about {duration(statistics.median(recent) * missing / self._workers)} left"

    def found(self) -> None:
        """Count a run that was finished before."""
        self.ended += 1

    def start(self, key: str, label: str) -> None:
        """Note that a run begins."""
        self.working[key] = label

    def finish(self, key: str, label: str, seconds: float, score: str) -> None:
        """Count a run that is done."""
        self.working.pop(key, None)
        self.ended += 1
        self.seconds.append(seconds)
        parts = [f"{seconds:.1f} s", score, self.left]
        self.line(f"{label}: done, {', '.join(part for part in parts if part)}")

    def fail(self, key: str, label: str, reason: str) -> None:
        """Count a run that failed; the rest goes on."""
        self.working.pop(key, None)
        self.ended += 1
        self.note(f"{label}: failed: {reason}")

    def line(self, text: str) -> None:
        """Say a line of progress."""
        self.say(f"[{self.ended}/{self._total()}] {text}")

    def note(self, text: str) -> None:
        """Say a line that stays."""
        self.say(text)


class _Bar(Progress):
    """The same as a bar: only notes stay on the terminal."""

    @contextmanager
    def shown(
        self, total: Callable[[], int], known: Mapping[str, float], workers: int
    ) -> Iterator[None]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = (
            BarColumn(30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("[dim]{task.fields[working]}"),
        )
        console = Console(highlight=False)
        with (
            super().shown(total, known, workers),
            RichProgress(*columns, console=console, transient=True) as bar,
        ):
            task = bar.add_task("runs", total=total(), left="", working="")
            self.say = lambda line: console.print(line, markup=False)
            self._update = lambda: bar.update(
                task,
                completed=self.ended,
                total=self._total(),
                left=self.left,
                working="; ".join(self.working.values()),
            )
            yield

    _update: Any = staticmethod(lambda: None)

    def start(self, key: str, label: str) -> None:
        super().start(key, label)
        self._update()

    def line(self, text: str) -> None:
        self._update()


def progress_for(quiet: bool, say: Callable[[str], None]) -> Progress:
    """Return what shows progress: a bar on a terminal, unless quiet or told elsewhere."""
    import sys

    from limbeck.recipe.telling import tell

    on_terminal = sys.stdout.isatty() and say is tell and not quiet
    return _Bar(say) if on_terminal else Progress(say)
