"""Sides in processes of their own that take turns: A B C, C B A, ...; both ends of the pipe.

A side imports what it needs, and nothing of the others; only one works at a time. It says when it
is ready, works for one turn when it is told to, and tells the seconds and its peak memory.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


class Turns:
    """The side's end. What the side prints goes to its log, never into the pipe."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._began = now()

    def begin(self) -> None:
        """Wait for the turn; leave the process when there is none any more."""
        self._say({"memory": peak_memory()})
        if sys.stdin.readline().strip() != "go":
            raise SystemExit
        self._began = now()

    def end(self) -> None:
        """Tell how long the turn was."""
        self._say({clock: at - self._began[clock] for clock, at in now().items()})

    def run(self, work: Callable[[], object]) -> None:
        """Work in every turn, to the last one."""
        while True:
            self.begin()
            work()
            self.end()

    def _say(self, facts: Mapping[str, float]) -> None:
        self._out.write(json.dumps(facts) + "\n")
        self._out.flush()


def now() -> dict[str, float]:
    """Return the seconds of both clocks: the wall's, and those that the processor worked for us."""
    return {"wall": time.perf_counter(), "cpu": time.process_time()}


def peak_memory() -> float:
    """Return the most memory that this process ever held, in MiB (its resident set)."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) / 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 1024


class Absent(Exception):
    """A side that cannot run here, in one line."""


class Worker:
    """The other end: starts the side, and waits until it is ready.

    Args:
        command: arguments of the Python interpreter.
        environment: variables of the process beside those of this one.
        log: where its output goes.

    Raises:
        Absent: it ended before it was ready.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("w") as stream:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
            )
        self.memory = 0.0
        try:
            self._wait()
        except Absent:
            self.close()
            raise

    def turn(self) -> dict[str, float]:
        """Let it work once, all others waiting; return the seconds by clock."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        seconds = self._hear()
        self._wait()
        return seconds

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _wait(self) -> None:
        self.memory = self._hear()["memory"]

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            lines = self._log.read_text().strip().splitlines()
            raise Absent(lines[-1] if lines else "it ended without a word")
        heard: dict[str, Any] = json.loads(line)
        return heard


def take_turns(workers: Mapping[str, Worker], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Let all work in every round, in turn forwards and backwards; return their turns by name."""
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for number in range(rounds):
        for name in reversed(workers) if number % 2 else workers:
            seconds[name].append(workers[name].turn())
    return seconds
