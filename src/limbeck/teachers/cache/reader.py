"""Reading: one view of a cache, checked as it is opened, then gathered from by rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import CacheError
from limbeck.taps.outputs import Outputs, SparseProbs
from limbeck.teachers.cache.codec import Codec
from limbeck.teachers.cache.forms import Block, decode, join, ready
from limbeck.teachers.cache.key import Key
from limbeck.teachers.cache.manifest import Manifest
from limbeck.teachers.cache.shards import check_present, check_shard, map_shard, shard_file

IN_MEMORY = 256 * 1024 * 1024
"""Bytes up to which a view is held in memory in one piece; a larger one stays mapped by shard."""


class Part:
    """One view of a cache.

    Args:
        blocks: its shards in order; or one block with all rows.
        bounds: first row of each block.
        codec: their form.
        classes: classes of the dense outputs.
        piece: rows that were encoded together.
    """

    def __init__(
        self, blocks: Sequence[Block], bounds: Sequence[int], codec: Codec, classes: int, piece: int
    ) -> None:
        self._blocks = blocks
        self._bounds = torch.tensor(bounds)
        self._codec, self._classes, self._piece = codec, classes, piece
        simple = codec.name == "float32" and len(blocks) == 1 and set(blocks[0]) == {"logits"}
        self._logits = blocks[0]["logits"] if simple else None  # nothing to decode, or to choose

    def gather(self, rows: Tensor, taps: Sequence[str] | None = None) -> Outputs:
        """Return the answers at ``rows``, int64 ``[batch]``; ``taps`` None: all features."""
        if self._logits is not None:
            return Outputs(self._logits.index_select(0, rows))
        if len(self._blocks) == 1:
            return self._decode(0, rows, taps)
        which = torch.bucketize(rows, self._bounds, right=True) - 1
        found, places = [], []
        for number in torch.unique(which).tolist():
            here = (which == number).nonzero().squeeze(1)
            found.append(self._decode(number, rows[here] - self._bounds[number], taps))
            places.append(here)
        return _together(found, torch.cat(places).argsort())

    def _decode(self, number: int, rows: Tensor, taps: Sequence[str] | None) -> Outputs:
        block = self._blocks[number]
        return decode(block, rows, self._codec, classes=self._classes, piece=self._piece, taps=taps)


def open_part(
    folder: Path, manifest: Manifest, view: int, codec: Codec, *, in_memory: int = IN_MEMORY
) -> Part:
    """Check every shard of a view by size and checksum, and open it.

    Raises:
        CacheError: a shard is missing or damaged.
    """
    entry = manifest.views[str(view)]
    shards = entry["shards"]
    _check(folder, manifest, view)
    blocks = [map_shard(folder / shard["file"]) for shard in shards]
    bounds = [0]
    for shard in shards:
        bounds.append(bounds[-1] + shard["rows"])
    if sum(shard["bytes"] for shard in shards) <= in_memory:
        blocks, bounds = [join(blocks)], [0, 0]
    opened = [ready(block, codec, manifest.classes) for block in blocks]
    return Part(opened, bounds[:-1], codec, manifest.classes, entry["piece"])


def see_all_present(folder: Path, manifest: Manifest) -> None:
    """Raise CacheError where a shard of any view is missing or has another size."""
    for view in map(int, manifest.views):
        for shard, _ in _places(folder, manifest, view):
            check_present(folder, shard)


def damaged(folder: Path, manifest: Manifest) -> dict[int, list[str]]:
    """Return the files of shards that are missing, damaged or out of place, by view."""
    found: dict[int, list[str]] = {}
    for view in map(int, manifest.views):
        for shard, place in _places(folder, manifest, view):
            try:
                check_shard(folder, shard, place)
            except CacheError:
                found.setdefault(view, []).append(shard["file"])
    return found


def _check(folder: Path, manifest: Manifest, view: int) -> None:
    """Raise CacheError unless every shard of a view is what, and where, the manifest says."""
    for shard, place in _places(folder, manifest, view):
        check_shard(folder, shard, place)


def _places(
    folder: Path, manifest: Manifest, view: int
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Return what the manifest says of each shard of a view, and what it must say of itself."""
    cache, begin = Key(manifest.key).digest, 0
    found: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    for number, shard in enumerate(manifest.views[str(view)]["shards"]):
        end = begin + shard["rows"]
        found.append((shard, {"cache": cache, "view": view, "begin": begin, "end": end}))
        begin = end
        if shard["file"] != shard_file(view, number):
            begin = -1
            break
    if begin != manifest.rows:
        raise CacheError(
            f"cache {folder}: its manifest lists other shards than view {view} has; delete the "
            "folder and capture anew"
        )
    return found


def verify(folder: Path, manifest: Manifest, say: Callable[[str], None]) -> None:
    """Check every shard of every view; say a line for each view.

    Raises:
        CacheError: a shard is missing or damaged.
    """
    for view, entry in manifest.views.items():
        _check(folder, manifest, int(view))
        size = sum(shard["bytes"] for shard in entry["shards"])
        count = len(entry["shards"])
        say(f"view {view}: {count} shard{'' if count == 1 else 's'}, {size:,} bytes, as written")


def _together(parts: Sequence[Outputs], back: Tensor) -> Outputs:
    """Join answers and put them in the order asked for."""

    def joined(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors)).index_select(0, back)

    first = parts[0]
    return Outputs(
        joined([part.logits for part in parts]),
        {name: joined([part.features[name] for part in parts]) for name in first.features},
        {name: joined([part.attentions[name] for part in parts]) for name in first.attentions},
        sparse=_together_sparse([part.sparse for part in parts if part.sparse is not None], joined),
    )


def _together_sparse(
    parts: Sequence[SparseProbs], joined: Callable[[Sequence[Tensor]], Tensor]
) -> SparseProbs | None:
    if not parts:
        return None
    most = max(part.ids.shape[-1] for part in parts)
    tails = [part.log_tail for part in parts if part.log_tail is not None]
    return SparseProbs(
        joined([_wider(part.ids, most, 0) for part in parts]),
        joined([_wider(part.log_probs, most, -torch.inf) for part in parts]),
        joined(tails) if tails else None,
        parts[0].temperature,
    )


def _wider(values: Tensor, width: int, fill: float) -> Tensor:
    return torch.nn.functional.pad(values, (0, width - values.shape[-1]), value=fill)
