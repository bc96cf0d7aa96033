"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from limbeck.errors import StorageError

_REASONS = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file-size limit is reached",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the file system is read-only",
    errno.EEXIST: "a file is in the way",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
}


@contextmanager
def storage_errors(path: Path | str, advice: str = "") -> Iterator[None]:
    """Turn an OSError of writing ``path`` into a one-line StorageError, with ``advice`` added."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        tail = f". {advice}" if advice else ""
        raise StorageError(f"cannot write {path}: {reason}{tail}") from error


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, where the platform allows it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_place(folder: Path) -> None:
    """Check that a folder can be made and written to, leaving nothing behind.

    Raises:
        StorageError: no permission, a file in the way, and the like.
    """
    place = folder.absolute()
    exists = next(path for path in (place, *place.parents) if path.exists())
    with storage_errors(folder), tempfile.TemporaryDirectory(prefix=".limbeck-", dir=exists):
        pass


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path aside to write to; at the end sync what is there and rename it to ``path``.

    Where the block raises, or the file cannot be synced or renamed, what was written is removed
    and an old file stays as it was. The folder is made where it does not exist.

    Raises:
        StorageError: no permission, no space, and the like.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield aside
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            aside.replace(path)
            sync_folder(path.parent)
        finally:
            aside.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all (``written_whole``)."""
    with written_whole(path) as aside:
        aside.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON, keys in the order given, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def held(lock: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a file's lock while the block runs; it goes with the process, however that ends.

    Args:
        lock: the file; made, with its folder, where it does not exist, and left behind.
        waiting: called once where another process holds it; may raise to give up instead.

    Raises:
        StorageError: the file cannot be made.
    """
    with storage_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        opened = lock.open("w")
    with opened:
        try:
            import fcntl
        except ImportError:  # Windows has no such lock; what it guards then ends in an error
            yield
            return
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
