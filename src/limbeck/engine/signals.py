"""Ctrl-C and termination: finish the step, write a checkpoint, then stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupted(KeyboardInterrupt):
    """The run was interrupted and has a checkpoint; ``run`` is the folder to resume."""

    def __init__(self, run: str) -> None:
        super().__init__(run)
        self.run = run


class GracefulStop:
    """Notes the first SIGINT or SIGTERM; the second one acts at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> GracefulStop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            # None: a handler that was not set from Python, and cannot be set from it
            if handler is not None:
                signal.signal(number, handler)  # type: ignore[arg-type]
