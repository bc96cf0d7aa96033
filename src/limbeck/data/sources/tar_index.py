"""The index of a tar of samples: where each file lies, so that any sample can be read at once."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from limbeck.errors import DataError

BLOCK = 512  # bytes; a tar is made of whole blocks and ends with two empty ones
_NAME = re.compile(r"(?P<key>(?:.*/)?[^/.]+)\.(?P<ending>[^/]*)")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file lies in a shard.

    Attributes:
        offset: of its first byte.
        size: in bytes.
    """

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The files of one sample.

    Attributes:
        shard: the tar.
        key: what their names share.
        files: by ending, in lower case.
    """

    shard: Path
    key: str
    files: Mapping[str, Place]

    def __str__(self) -> str:
        return f"{self.shard}, sample {self.key!r}"

    def read(self, ending: str) -> bytes:
        """Return the content of the file with this ending.

        Raises:
            DataError: the shard is gone, or shorter than it was.
        """
        place = self.files[ending]
        try:
            with self.shard.open("rb") as tar:
                tar.seek(place.offset)
                content = tar.read(place.size)
        except OSError as error:
            raise DataError(f"{self} cannot be read: {error.strerror}") from error
        if len(content) != place.size:
            raise DataError(f"{self}: .{ending} is cut short: the shard changed after it was read")
        return content


def index_of(shard: Path) -> list[Sample]:
    """List the samples of a shard; only the headers of its files are read.

    Files belong to one sample as long as their names up to the first dot are the same.

    Raises:
        DataError: no tar, a compressed or damaged one, or two files of one name in a sample: with
            the shard, and the sample where there is one.
    """
    groups: list[tuple[str, dict[str, Place]]] = []
    for name, place in _files(shard):
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        key, ending = match["key"], match["ending"].lower()
        if not groups or groups[-1][0] != key:
            groups.append((key, {}))
        files = groups[-1][1]
        if ending in files:
            raise DataError(f"{shard}, sample {key!r}: two files end in .{ending}")
        files[ending] = place
    if not groups:
        raise DataError(f"{shard} holds no sample: expected files such as 000000.jpg, 000000.cls")
    return [Sample(shard, key, files) for key, files in groups]


def _files(shard: Path) -> Iterator[tuple[str, Place]]:
    """Yield the names and places of the plain files; refuse what is no whole tar."""
    if shard.suffix in (".gz", ".tgz", ".bz2", ".xz", ".zst"):
        raise DataError(
            f"{shard} is compressed, so that no sample can be read by itself: unpack it to .tar"
        )
    last, end = "its beginning", 0
    try:
        length = shard.stat().st_size
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                last, end = member.name, member.offset_data + _padded(member.size)
                if member.isreg() and not member.issparse():
                    yield member.name, Place(member.offset_data, member.size)
    except tarfile.ReadError as error:
        if length == 0:
            raise DataError(f"{shard} is empty: expected a tar of samples") from error
        if end:
            _refuse(shard, last, end, length)
        raise DataError(f"{shard} is no tar that can be read: {error}") from error
    except tarfile.TarError as error:
        raise DataError(f"{shard} is damaged after {last}: {error}") from error
    except OSError as error:
        raise DataError(f"{shard} cannot be read: {error.strerror}") from error
    _refuse(shard, last, end, length)


def _refuse(shard: Path, last: str, end: int, length: int) -> None:
    """Raise where a tar does not end with an empty block after its last whole file."""
    if end > length:
        raise DataError(f"{shard} is cut short in {last}: {end - length:,} bytes are missing")
    with shard.open("rb") as tar:
        tar.seek(end)
        after = tar.read(BLOCK)
    if len(after) < BLOCK:
        raise DataError(f"{shard} is cut short after {last}: the mark of its end is missing")
    if after.strip(b"\0"):
        raise DataError(f"{shard} is damaged after {last}: what follows is no file's header")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
