"""Budget: what a capture may take of the disk, settled before anything is written."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from limbeck.errors import CacheError
from limbeck.teachers.cache.codec import Codec

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_A_SHARD, _A_TENSOR = 1024, 150  # a shard's header, and its lines in the manifest
_A_VIEW, _MANIFEST = 1024, 2048  # what the manifest says of a view, and of all


def as_bytes(value: int | str | None) -> int | None:
    """Read a size: bytes, or "500 MB", "2GB", "1.5 GiB"; None: no bound.

    >>> as_bytes("1.5 kB"), as_bytes("2GiB")
    (1500, 2147483648)

    Raises:
        CacheError: anything else, or nothing above 0.
    """
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    text = value if isinstance(value, str) else ""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    unit = _UNITS.get(found.group(2).lower()) if found else None
    if found is None or unit is None or float(found.group(1)) <= 0:
        raise CacheError(f"budget: expected bytes or a size such as '2GB', got {value!r}")
    return int(float(found.group(1)) * unit)


def shown(size: float) -> str:
    """Return a size for people, in three digits.

    >>> shown(999), shown(20_480_000)
    ('999 B', '20.5 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


@dataclass(frozen=True)
class Sizes:
    """What is still to be captured.

    Attributes:
        row_bytes: most bytes of a row.
        rows: of a view.
        shard_rows: rows of a full shard.
        tensors: of a shard.
        views: how many.
    """

    row_bytes: int
    rows: int
    shard_rows: int
    tensors: int
    views: int

    @property
    def bytes(self) -> int:
        """Most bytes in all."""
        shards = -(-self.rows // self.shard_rows)
        beside = shards * (_A_SHARD + _A_TENSOR * self.tensors) + _A_VIEW
        return self.views * (self.row_bytes * self.rows + beside) + _MANIFEST


def refuse_too_much(
    folder: Path, sizes: Sizes, there: int, half: int, budget: int | None, codec: Codec
) -> None:
    """Raise CacheError where a capture would not fit the budget, or the disk.

    Args:
        folder: of the cache.
        sizes: of what is still to be captured.
        there: bytes of the views that the cache has already.
        half: bytes of an unfinished view, which are among those that it needs.
        budget: most bytes of the cache; None: no bound.
        codec: in what form.
    """
    more = sizes.bytes
    row = shown(sizes.row_bytes)
    what = f"{sizes.views} x {sizes.rows:,} samples of {row} as {codec.describe()}"
    if budget is not None and there + more > budget:
        taken = f" beside the {shown(there)} there" if there else ""
        raise CacheError(
            f"cache {folder}: needs {shown(more)}{taken} ({what}), the budget is {shown(budget)}; "
            f"{_ways_out(codec)}, or raise the budget"
        )
    exists = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(exists).free
    if more - half > free:
        raise CacheError(
            f"cache {folder}: needs {shown(more - half)} ({what}), the disk has {shown(free)} "
            f"free; {_ways_out(codec)}, or another folder"
        )


def _ways_out(codec: Codec) -> str:
    smaller = {"float32": "codec float16, topk or sampled", "float16": "codec topk or sampled"}
    sparse = "a smaller k" if codec.name == "topk" else "fewer rounds"
    return f"choose {smaller.get(codec.name, sparse)}, or fewer views"
