"""A worker: a process of one thread that runs recipes, one after another, as it is told.

It reads jobs as JSON lines and answers in JSON lines. It stays for many runs, so that torch is
imported and a data set loaded once. SIGTERM stops the run in hand with a checkpoint; so does the
end of the input, which is how a worker learns that whoever started it was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

Job = Mapping[str, Any]


class Worker:
    """Runs jobs.

    Args:
        answers: where its lines go.
    """

    def __init__(self, answers: TextIO) -> None:
        self.answers = answers
        self._workshops: dict[str, Any] = {}

    def run(self, job: Job) -> None:
        """Run one job and answer how it ended: done, failed or stopped."""
        from limbeck.errors import LimbeckError

        try:
            self._run(job)
        except KeyboardInterrupt:
            self.answer(job, "stopped")
            raise
        except LimbeckError as error:
            reason = " ".join(str(error).split())
            self.answer(job, "failed", reason=reason, kind=type(error).__name__)
        except Exception as error:  # any fault of one run must leave the others alone
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self.answer(job, "failed", reason=reason, details=traceback.format_exc())
        else:
            self.answer(job, "done")

    def answer(self, job: Job, event: str, **more: str) -> None:
        """Write one line."""
        line = json.dumps({"event": event, "id": job["id"], **more})
        with contextlib.suppress(BrokenPipeError):  # nobody listens; the run folder says it all
            print(line, file=self.answers, flush=True)

    def _run(self, job: Job) -> None:
        from limbeck.engine.running import run_plan
        from limbeck.files import held
        from limbeck.recipe import check_recipe, load_recipe
        from limbeck.recipe.build import plan_with
        from limbeck.recipe.teacher_store import is_trained

        folder = Path(job["folder"])
        sys.argv = ["limbeck", "run", str(folder / "recipe.yaml")]  # what would repeat the run
        waiting = "waiting for another process that works on it"
        with held(Path(job["lock"]), lambda: self.answer(job, "note", text=waiting)):
            if is_trained(folder):
                return
            recipe = load_recipe(job["recipe"])
            for warning in check_recipe(recipe):
                self.answer(job, "note", text=f"warning: {warning}")
            plan = plan_with(self._workshop(job), recipe)
            begun = (folder / "recipe.yaml").exists()
            run_plan(plan, folder, resume=begun, quiet=True)

    def _workshop(self, job: Job) -> Any:
        """Return the tools for this store, which keep loaded data sets and teachers' answers."""
        from limbeck.engine.known_answers import KnownAnswers
        from limbeck.recipe.build import Workshop
        from limbeck.recipe.teacher_store import Store

        key = job["store"]
        if key not in self._workshops:
            self._workshops[key] = Workshop(
                Store(key),
                allow_code=job["allow_code"],
                quiet=True,
                say=lambda line: None,
                answers=KnownAnswers(),
            )
        return self._workshops[key]


def main() -> None:
    """Run jobs until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    signal.signal(signal.SIGTERM, _stop)
    jobs: queue.Queue[Job | None] = queue.Queue()
    busy = threading.Event()
    threading.Thread(target=_read, args=(jobs, busy), daemon=True).start()
    import torch

    torch.set_num_threads(1)
    worker = Worker(answers)
    try:
        while (job := jobs.get()) is not None:
            busy.set()
            worker.run(job)
            busy.clear()
    except KeyboardInterrupt:
        pass


def _read(jobs: queue.Queue[Job | None], busy: threading.Event) -> None:
    """Put jobs into the queue; where the input ends in the middle of a run, stop that run."""
    for line in sys.stdin:
        jobs.put(json.loads(line))
    jobs.put(None)
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
