"""The crew: worker processes, what they are told and what they answer."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_PATIENCE = 120.0  # seconds for a step and a checkpoint; then a worker that was asked is killed
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Answer:
    """What a worker said: ``done``, ``failed``, ``stopped`` or ``note``, of which job.

    Attributes:
        event: the first word of all.
        id: the job's.
        text: why it failed, or the note.
        details: a traceback, where the fault is ours.
        kind: name of the error's class.
    """

    event: str
    id: str
    text: str = ""
    details: str = ""
    kind: str = ""


@dataclass
class _Member:
    process: subprocess.Popen[str]
    job: str = ""
    last_words: list[str] = field(default_factory=list)


class Crew:
    """Processes of one thread each; a context that ends them.

    Args:
        size: most processes at once, at least 1.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._members: list[_Member] = []
        self._answers: queue.Queue[tuple[_Member, Answer | None]] = queue.Queue()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        if self.busy:
            self.stop()
        for member in self._members:
            _close(member)
        for member in self._members:
            member.process.wait()

    @property
    def busy(self) -> int:
        """How many jobs are being worked on."""
        return sum(bool(member.job) for member in self._members)

    @property
    def has_room(self) -> bool:
        """Whether another job can be given out."""
        return self.busy < self.size

    def give(self, job: Mapping[str, Any]) -> None:
        """Give a job to an idle worker; start one where there is none."""
        idle = [member for member in self._members if not member.job]
        member = idle[0] if idle else self._start()
        member.job = job["id"]
        assert member.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: its reader says so
            print(json.dumps(job), file=member.process.stdin, flush=True)

    def wait(self, timeout: float) -> Answer | None:
        """Return the next answer; None after ``timeout`` seconds without one.

        A worker that dies (out of memory, a crash in a library) fails its job and no other.
        """
        try:
            member, answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            return None
        if answer is not None:
            if answer.event in ("done", "failed"):
                member.job = ""
            return answer if answer.event != "stopped" else None  # it ends: that is told below
        self._members.remove(member)
        _close(member)
        job, member.job = member.job, ""
        if not job:
            return None
        if member.process.returncode in (0, -signal.SIGTERM):
            return Answer("stopped", job)
        return Answer("failed", job, _death(member), "".join(member.last_words))

    def stop(self) -> None:
        """Let every worker finish its step, write a checkpoint and leave."""
        for member in self._members:
            member.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE
        for member in self._members:
            try:
                member.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                member.process.kill()
            member.job = ""

    def _start(self) -> _Member:
        process = subprocess.Popen(
            [sys.executable, "-m", "limbeck.studies.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1")},
            start_new_session=True,  # a terminal's Ctrl-C is for us, who tell the workers
        )
        member = _Member(process)
        self._members.append(member)
        for work in (self._listen, self._overhear):
            threading.Thread(target=work, args=(member,), daemon=True).start()
        return member

    def _listen(self, member: _Member) -> None:
        assert member.process.stdout is not None
        for line in member.process.stdout:
            said = json.loads(line)
            text = said.get("reason") or said.get("text", "")
            details, kind = said.get("details", ""), said.get("kind", "")
            answer = Answer(said["event"], said["id"], text, details, kind)
            self._answers.put((member, answer))
        member.process.stdout.close()
        member.process.wait()
        self._answers.put((member, None))

    def _overhear(self, member: _Member) -> None:
        """Keep the last lines of what is no answer, for a worker that dies."""
        assert member.process.stderr is not None
        for line in member.process.stderr:
            member.last_words.append(line)
            del member.last_words[:-40]
        member.process.stderr.close()


def _close(member: _Member) -> None:
    """End a worker's input, which ends the worker."""
    assert member.process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it is gone already, with something unsaid to it
        member.process.stdin.close()


def _death(member: _Member) -> str:
    code = member.process.returncode
    if code >= 0:
        return f"its process ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}"
