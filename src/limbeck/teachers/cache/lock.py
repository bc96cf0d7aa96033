"""One writer of a cache at a time, over all processes of the machine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from limbeck.files import storage_errors


@contextlib.contextmanager
def locked(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a cache, which lies beside its folder; wait while another process has it."""
    path = folder.with_name(f"{folder.name}.lock")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("w")
    with opened:
        try:
            import fcntl
        except ImportError:  # Windows: two captures at once write the same bytes twice
            yield
            return
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that captures into {folder}")
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
