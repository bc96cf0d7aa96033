"""Tidying: what interrupted captures left, removed while the lock is held."""

from __future__ import annotations

from pathlib import Path

from limbeck.teachers.cache.manifest import NAME
from limbeck.teachers.cache.shards import shard_file


def drop_others(folder: Path, view: int, files: set[str]) -> None:
    """Remove shards of an interrupted capture that cut the view otherwise."""
    for path in (folder / shard_file(view, 0)).parent.glob("*.safetensors"):
        if str(path.relative_to(folder)) not in files:
            path.unlink()


def drop_half_written(first: Path) -> None:
    """Remove what a killed writer left half written; the lock is held."""
    first.parent.mkdir(parents=True, exist_ok=True)
    for stale in (*first.parent.glob(".*.tmp"), *first.parent.parent.glob(f".{NAME}.*.tmp")):
        stale.unlink(missing_ok=True)
