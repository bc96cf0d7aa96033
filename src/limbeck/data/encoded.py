"""Encoded images as Samples: held in memory as pixels, or decoded as they are read."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from limbeck.data.pixels import Decoder
from limbeck.data.samples import TensorSamples, hash_tensors
from limbeck.errors import DataError

HELD = 2 << 30  # bytes of pixels that are held in memory unless the user says otherwise


class Encoded(Protocol):
    """Image files wherever they are: in a folder, an archive, a table."""

    def __len__(self) -> int:
        """Return how many there are."""

    def name(self, index: int) -> str:
        """Return what messages call one."""

    def read(self, index: int) -> bytes:
        """Return the content of one; DataError, with its name, where that fails."""


class EncodedImages:
    """Images that are decoded each time they are asked for.

    ``digest`` is over the files' contents, size and mode, and the targets; it reads every file
    once, without decoding. Pixels held by ``in_memory`` have the same digest.

    Args:
        files: the encoded images.
        targets: one a file.
        decoder: makes pixels of them.
        num_workers: processes that decode ahead in training (0: none).
    """

    def __init__(
        self, files: Encoded, targets: Tensor, decoder: Decoder, num_workers: int = 0
    ) -> None:
        self.files, self.targets, self.decoder = files, targets, decoder
        self.num_workers = num_workers

    def __len__(self) -> int:
        return len(self.files)

    @property
    def num_bytes(self) -> int:
        """Memory that all pixels would take."""
        return len(self) * self.decoder.num_bytes

    def fetch(self, index: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return (uint8 ``[batch, channels, height, width]``, targets); ``seed`` changes nothing.

        Raises:
            DataError: naming an image that cannot be read.
        """
        pixels = torch.empty(len(index), *self.decoder.shape, dtype=torch.uint8)
        for row, position in enumerate(index.tolist()):
            pixels[row] = self._decoded(position, self.files.read(position))
        return pixels, self.targets.index_select(0, index)

    def in_memory(self, tick: Callable[[], None]) -> HeldImages:
        """Decode all, calling ``tick`` after each."""
        pixels = torch.empty(len(self), *self.decoder.shape, dtype=torch.uint8)
        contents = hashlib.sha256()
        for position in range(len(self)):
            content = self.files.read(position)
            pixels[position] = self._decoded(position, content)
            contents.update(hashlib.sha256(content).digest())
            tick()
        return HeldImages(pixels, self.targets, self._with_form(contents.hexdigest()))

    def digest(self) -> str:
        """Return the sha256 over contents, form and targets (computed once)."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        contents = hashlib.sha256()
        for position in range(len(self)):
            contents.update(hashlib.sha256(self.files.read(position)).digest())
        return self._with_form(contents.hexdigest())

    def _with_form(self, contents: str) -> str:
        form = f"{contents}|{self.decoder.size}|{self.decoder.mode}|{hash_tensors(self.targets)}"
        return hashlib.sha256(form.encode()).hexdigest()

    def _decoded(self, position: int, content: bytes) -> Tensor:
        return self.decoder(content, lambda: self.files.name(position))


class HeldImages(TensorSamples):
    """Pixels in memory that remember what they were decoded from.

    Args:
        inputs: uint8 ``[samples, channels, height, width]``.
        targets: one a sample.
        contents: the digest of the encoded images.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, contents: str) -> None:
        super().__init__(inputs, targets)
        self._contents = contents

    def digest(self) -> str:
        """Return the digest that ``EncodedImages`` gives before decoding."""
        return self._contents


def held_or_read(
    parts: dict[str, EncodedImages], memory: bool | None
) -> tuple[Mapping[str, EncodedImages | HeldImages], str]:
    """Hold the pixels of all parts in memory, or leave them to be decoded as they are read.

    What takes memory says so first: a bar on a terminal names how much, and a set that cannot fit
    is refused before anything is decoded.

    Args:
        parts: images by part.
        memory: whether to hold them; None: where they take no more than 2 GiB and half of what is
            free.

    Returns:
        The parts, and a note for ``describe``.

    Raises:
        DataError: ``memory`` is true and there is not so much; or an image cannot be read.
    """
    need, free = sum(part.num_bytes for part in parts.values()), _free_memory()
    if memory is None:
        memory = need <= HELD and (free is None or need <= free // 2)
    if memory:
        note = room_for(
            need,
            "pixels",
            "data.memory=false decodes them as they are read; or a smaller data.size=",
        )
        with _bar(sum(map(len, parts.values())), need) as tick:
            held = {name: part.in_memory(tick) for name, part in parts.items()}
        return {**held}, note
    workers = max(part.num_workers for part in parts.values())
    return {**parts}, (
        f"images decoded as they are read ({_size(need)} of pixels; num_workers={workers})"
    )


def room_for(need: int, what: str, way_out: str) -> str:
    """Return the note that so many bytes of something are held in memory.

    Raises:
        DataError: there is not so much; with the way out.
    """
    free = _free_memory()
    if free is not None and need > free:
        raise DataError(
            f"{_size(need)} of {what} do not fit into the {_size(free)} of memory that are free: "
            f"{way_out}"
        )
    return f"{_size(need)} of {what} in memory"


def _free_memory() -> int | None:
    """Return the bytes that can be taken without swapping; None where unknown.

    A container's own limit counts where it is the lower one.
    """
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
        found.append(int(line.split()[1]) * 1024)
    with suppress(OSError, ValueError):  # "max": no limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        found.append(max(limit - used, 0))
    return min(found, default=None)


def _size(count: int) -> str:
    """Return a number of bytes for a person."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} bytes"


@contextmanager
def _bar(total: int, need: int) -> Iterator[Callable[[], None]]:
    """Give a function to call for each image that is done; draws on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    label = TextColumn(f"decoding images into {_size(need)} of memory")
    columns = (label, BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("images", total=total)
        yield lambda: bar.advance(task)
