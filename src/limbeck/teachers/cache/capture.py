"""Capture: the teacher is asked about one view, and what it says is written shard by shard.

Every file is written whole or not at all, and its bytes depend on what is captured alone: killed
at any moment, a capture goes on with the shards that are missing and ends in the same bytes. With
several processes each writes shards of its own; the first holds a lock that keeps other jobs away.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.data.batch import Batch
from limbeck.data.bundle import DataBundle
from limbeck.errors import CacheError
from limbeck.taps.outputs import Outputs
from limbeck.teachers.cache.budget import Sizes, refuse_too_much
from limbeck.teachers.cache.codec import Codec
from limbeck.teachers.cache.drawing import (
    captured_rows,
    conditions,
    drawn,
    in_other_company,
)
from limbeck.teachers.cache.forms import Block, decode, encode, join, ready, row_bytes
from limbeck.teachers.cache.info import moved
from limbeck.teachers.cache.key import Key
from limbeck.teachers.cache.lock import locked
from limbeck.teachers.cache.manifest import NAME, Manifest, read_manifest
from limbeck.teachers.cache.measure import add_up, measure, summary
from limbeck.teachers.cache.progress import Progress
from limbeck.teachers.cache.shards import (
    read_header,
    rows_in_shard,
    shard_file,
    write_shard,
)
from limbeck.teachers.cache.tidying import drop_half_written, drop_others
from limbeck.teachers.visits import Visits, ask_padded


@dataclass
class Capture:
    """What is captured, and where to.

    Attributes:
        folder: of the cache.
        key: what decides its content.
        about: for people.
        ask: the teacher, on its device.
        data: the data.
        visits: how the run will look at them.
        codec: the form.
        clean: whether the teacher sees samples as evaluation shows them.
        device: where it is asked.
        budget: most bytes on disk; None: no bound.
        num_views: views that will be wanted in all.
        say: gets lines for a person.
    """

    folder: Path
    key: Key
    about: Mapping[str, str]
    ask: Callable[[Batch], Outputs]
    data: DataBundle
    visits: Visits
    codec: Codec
    clean: bool
    device: torch.device
    budget: int | None
    num_views: int
    say: Callable[[str], None]
    _written: dict[str, str] = field(default_factory=dict)
    _probes: dict[int, Probe] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = captured_rows(self.data)

    # One view.

    def take(self, view: int) -> Manifest:
        """Capture a view unless it is there, and return the manifest that lists it."""
        visits = self.visits
        with contextlib.ExitStack() as held, _random_numbers_kept():
            if visits.lead(lambda: self._begin(held, view)):
                self._write_shards(view)
                visits.barrier()
                visits.lead(lambda: self._seal(view))
        return read_manifest(self.folder)

    def _begin(self, held: contextlib.ExitStack, view: int) -> bool:
        """Lock the cache; whether the view is missing. Refuses before anything is written."""
        there = self._views_there()
        if view in there:
            return False
        probe = self._probe(view)
        refuse_too_much(
            self.folder,
            Sizes(
                probe.row_bytes,
                len(self.rows),
                probe.shard_rows,
                probe.tensors,
                self.num_views - len(there),
            ),
            self._bytes_there(),
            self._half_captured(there),
            self.budget,
            self.codec,
        )
        held.enter_context(locked(self.folder, self.say))
        if view in self._views_there():  # another process captured it meanwhile
            return False
        if not self._exists():
            Manifest(self.key.values, self.about, len(self.rows), probe.classes).write(self.folder)
        drop_half_written(self.folder / shard_file(view, 0))
        self.say(
            f"asks the teacher about view {view} ({view + 1} of {self.num_views}): "
            f"{len(self.rows):,} samples, kept as {self.codec.describe()} in {self.folder}"
        )
        if not probe.stable:
            self.say(f"view {view}: {moved(probe.gap)}")
        return True

    def _bytes_there(self) -> int:
        if not self._exists():
            return 0
        return read_manifest(self.folder).bytes + (self.folder / NAME).stat().st_size

    def _half_captured(self, there: set[int]) -> int:
        """Return the bytes of shards that an interrupted capture left."""
        done = {Path(shard_file(view, 0)).parts[0] for view in there}
        left = (p for p in self.folder.glob("view-*/*.safetensors") if p.parts[-2] not in done)
        return sum(path.stat().st_size for path in left)

    def _exists(self) -> bool:
        return (self.folder / NAME).exists()

    def _views_there(self) -> set[int]:
        if not self._exists():
            return set()
        manifest = read_manifest(self.folder)
        self.key.refuse_other(manifest.key, str(self.folder))
        return {int(name) for name in manifest.views}

    def _write_shards(self, view: int) -> None:
        probe, visits = self._probe(view), self.visits
        starts = range(0, len(self.rows), probe.shard_rows)
        mine = [
            number for number in range(len(starts)) if number % visits.world_size == visits.rank
        ]
        missing = [number for number in mine if not self._is_there(view, number, probe)]
        progress = Progress(self.say, len(missing) * probe.shard_rows)
        pieces = self._pieces(view, [(number, starts[number]) for number in missing], probe)
        for number in missing:
            blocks, measured = [], []
            for _ in self._chunks(starts[number], probe):
                block, figures = next(pieces)
                blocks.append(block)
                measured.append(figures)
                progress.add(visits.rows)
            header = {
                **self._header(view, number, probe),
                "measured": add_up(m for m in measured if m),
            }
            file = shard_file(view, number)
            self._written[file] = write_shard(self.folder / file, join(blocks), header)

    def _chunks(self, start: int, probe: Probe) -> list[Tensor]:
        """Return the positions of a shard's samples, batch by batch."""
        return list(torch.split(self.rows[start : start + probe.shard_rows], self.visits.rows))

    def _pieces(
        self, view: int, shards: list[tuple[int, int]], probe: Probe
    ) -> Iterator[tuple[Block, dict[str, float] | None]]:
        """Yield encoded batches of the shards in order; the first of each shard is measured."""
        chunks = [(i, chunk) for _, s in shards for i, chunk in enumerate(self._chunks(s, probe))]
        batches = self._batches(view, [chunk for _, chunk in chunks])
        for (place, _), batch in zip(chunks, batches, strict=True):
            dense, block = self._answer(batch, view)
            figures = None
            if place == 0:
                figures = measure(self.data.task, dense, self._read_back(block, probe), self.codec)
            yield block, figures

    def _answer(self, batch: Batch, view: int) -> tuple[Outputs, Block]:
        assert batch.index is not None
        outputs = ask_padded(self.ask, batch.to(self.device), self.visits.rows)
        dense = Outputs(outputs.logits, outputs.features, outputs.attentions)
        dense = dense.map(lambda tensor: tensor.detach().cpu())
        return dense, encode(dense, self.codec, batch.index, view)

    def _read_back(self, block: Block, probe: Probe) -> Outputs:
        block = ready(block, self.codec, probe.classes)
        rows = torch.arange(len(next(v for k, v in block.items() if k not in _NOT_ROWS)))
        return decode(
            block, rows, self.codec, classes=probe.classes, piece=self.visits.rows, taps=None
        )

    def _batches(self, view: int, chunks: list[Tensor]) -> Iterator[Batch]:
        return drawn(self.data, self.visits, chunks, view=None if self.clean else view)

    # Layout, and what a shard says of itself.

    def _probe(self, view: int) -> Probe:
        """Ask about the first batch: sizes, and whether the rest of a batch changes answers."""
        if view not in self._probes:
            self._probes[view] = self._asked(view)
        return self._probes[view]

    def _asked(self, view: int) -> Probe:
        batch = next(self._batches(view, [self.rows[: self.visits.rows]]))
        dense, block = self._answer(batch, view)
        classes = dense.logits.shape[-1]
        most = row_bytes(block, self.codec, len(dense.logits), classes)
        steps = self.data.augment_eval if self.clean else self.data.augment_train
        other, rows = in_other_company(batch, steps)
        again, _ = self._answer(other, view)
        gap = max(
            self._apart(name, b, a.index_select(0, rows))
            for (name, a), b in zip(_tensors(dense), (t for _, t in _tensors(again)), strict=True)
        )
        if gap > _NO_ROUNDING:
            much = "beyond bounds" if math.isinf(gap) else f"by {gap:.0%}"
            raise CacheError(
                f"cache {self.folder}: the teacher's answer about a sample changes {much} with the "
                "samples beside it in a batch (statistics of the batch? padding? dropout?), so "
                "that no answer of it can be kept; give a teacher that looks at each sample by "
                "itself"
            )
        return Probe(classes, most, rows_in_shard(most, self.visits.rows), len(block), gap)

    def _apart(self, name: str, found: Tensor, expected: Tensor) -> float:
        if found.shape != expected.shape:
            raise CacheError(
                f"cache {self.folder}: {name} has another size in another batch "
                f"({list(found.shape)[1:]} and {list(expected.shape)[1:]}: texts of other "
                "lengths?), so that its rows cannot be kept side by side; choose other taps"
            )
        return apart(found, expected)

    def _header(self, view: int, number: int, probe: Probe) -> dict[str, Any]:
        start = number * probe.shard_rows
        return {
            "cache": self.key.digest,
            "view": view,
            "begin": start,
            "end": min(start + probe.shard_rows, len(self.rows)),
            "stable": probe.stable,
            "conditions": conditions(self.visits, self.device),
        }

    def _is_there(self, view: int, number: int, probe: Probe) -> bool:
        """Whether a shard of an earlier, interrupted capture can stay."""
        path = self.folder / shard_file(view, number)
        said = read_header(path)
        return said is not None and {**said, "measured": None} == {
            **self._header(view, number, probe),
            "measured": None,
        }

    def _seal(self, view: int) -> None:
        """List a view whose shards are all there."""
        probe = self._probe(view)
        shards, headers = [], []
        for number in range(-(-len(self.rows) // probe.shard_rows)):
            file = shard_file(view, number)
            said = read_header(self.folder / file)
            if said is None:
                raise CacheError(f"cache {self.folder}: {file} vanished while it was captured")
            headers.append(said)
            shards.append(
                {
                    "file": file,
                    "rows": said["end"] - said["begin"],
                    "bytes": (self.folder / file).stat().st_size,
                    "sha256": self._written.pop(file, None) or _sha256(self.folder / file),
                }
            )
        drop_others(self.folder, view, {shard["file"] for shard in shards})
        total = add_up(said["measured"] for said in headers)
        size = sum(shard["bytes"] for shard in shards) / len(self.rows)
        entry = {
            "conditions": conditions(self.visits, self.device),
            "stable": probe.stable,
            "gap": float(f"{probe.gap:.1e}"),
            "piece": self.visits.rows,
            "measured": summary(total, size, self.codec.name, self.data.task),
            "shards": shards,
        }
        read_manifest(self.folder).with_view(view, entry).write(self.folder)


_NOT_ROWS = ("packed", "starts")
_NO_ROUNDING = 0.05  # of a number's size; a teacher in bfloat16 stays below
_NOTHING = 1e-6  # numbers below it are noise


@dataclass(frozen=True)
class Probe:
    """What the first batch tells.

    Attributes:
        classes: outputs of a sample's logits.
        row_bytes: most bytes of a sample.
        shard_rows: rows of a full shard.
        tensors: of a shard.
        gap: how far an answer moves with the rest of its batch, a share of its size.
    """

    classes: int
    row_bytes: int
    shard_rows: int
    tensors: int
    gap: float

    @property
    def stable(self) -> bool:
        """Whether the rest of the batch changes no bit."""
        return self.gap == 0


@contextlib.contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """Leave torch's generator as it was: a run must not notice that it captured on the way."""
    with torch.random.fork_rng(devices=[]):
        yield


def _tensors(outputs: Outputs) -> list[tuple[str, Tensor]]:
    return [("logits", outputs.logits), *outputs.features.items(), *outputs.attentions.items()]


def apart(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to a number's own size; 0 for the same bits.

    That is its magnitude and the tensor's median one together: near 0 the latter counts, and a
    class that is masked by a huge number hides no other.
    """
    same = (found == expected) | (found.isnan() & expected.isnan())
    if bool(same.all()):
        return 0.0
    sizes = expected.double().abs()
    usual = sizes[expected.isfinite() & (sizes > 0)]
    middle = float(usual.median()) if len(usual) else 0.0
    gaps = (found.double() - expected.double()).abs() / (sizes + middle + _NOTHING)
    gap = float(gaps[~same].max())
    return math.inf if math.isnan(gap) else gap


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
