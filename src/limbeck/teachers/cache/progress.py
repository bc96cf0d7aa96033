"""Progress of a capture: a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY = 10.0  # seconds between lines


class Progress:
    """Says now and then how far a capture is, and how long it will take.

    Args:
        say: gets the lines.
        total: rows that will be asked about.
    """

    def __init__(self, say: Callable[[str], None], total: int) -> None:
        self._say, self._total, self._done = say, total, 0
        self._began = self._last = time.monotonic()

    def add(self, rows: int) -> None:
        """Count rows that were asked about."""
        self._done = min(self._done + rows, self._total)
        now = time.monotonic()
        if now - self._last >= EVERY:
            self._last = now
            rate = self._done / (now - self._began)
            left = (self._total - self._done) / rate
            self._say(f"asked about {self._done:,} of {self._total:,}; about {left:.0f} s left")
