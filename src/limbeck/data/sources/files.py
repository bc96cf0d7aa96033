"""Finding a data set's files, and downloading them with a checksum."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.errors import DataError
from limbeck.files import written_whole

BLOCK = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Attributes:
        name: its file name.
        url: folder it is published in; joined with ``name``.
        checksum: hexadecimal digest as its publisher states it.
        algorithm: "sha256" or "md5".
    """

    name: str
    url: str
    checksum: str
    algorithm: str = "sha256"


def cache_folder() -> Path:
    """Return where downloads are kept: $LIMBECK_CACHE, or ~/.cache/limbeck."""
    folder = os.environ.get("LIMBECK_CACHE")
    return Path(folder) if folder else Path.home() / ".cache" / "limbeck"


def roots(root: str | Path | None) -> list[Path]:
    """Return where a set's files are looked for: ``root``, else $LIMBECK_DATA where that is set."""
    given = os.environ.get("LIMBECK_DATA") if root is None else root
    return [Path(given).expanduser()] if given else []


def locate(
    name: str,
    files: Sequence[RemoteFile],
    root: str | Path | None,
    download: bool,
    mirror: str | None = None,
    also: Sequence[str] = (),
) -> Path:
    """Return the folder that holds all ``files``, downloading them where that is allowed.

    Looked in, in this order: ``root`` and its folders ``name`` and ``also``; without a root,
    $LIMBECK_DATA likewise, then the download cache.

    Args:
        name: the set's name, and its folder's.
        files: what must be there.
        root: the user's folder; downloads go there too where it is given.
        download: whether missing files may be fetched.
        mirror: fetch from this address instead of the publisher's.
        also: other folder names that are usual for this set.

    Raises:
        DataError: files are missing and ``download`` is false, or a download fails.
    """
    starts = roots(root)
    cache = cache_folder() / "data" / name
    folders = [start / sub for start in starts for sub in ("", name, *also)]
    folders += [] if root is not None else [cache]
    for folder in folders:
        if all(find_file(folder, file.name) is not None for file in files):
            return folder
    if not download:
        places = ", ".join(str(start) for start in (starts if root is not None else folders))
        raise DataError(
            f"files not found in {places}; expected {', '.join(f.name for f in files)}: "
            "pass data.root=FOLDER, or data.download=true to fetch them"
        )
    target = starts[0] if root is not None else cache
    for file in files:
        if find_file(target, file.name) is None:
            fetch(file, target, mirror)
    return target


def find_file(folder: Path, name: str) -> Path | None:
    """Return the file in the folder, compressed or unpacked (name without .gz), or None."""
    for candidate in (folder / name, folder / name.removesuffix(".gz")):
        if candidate.is_file():
            return candidate
    return None


def fetch(file: RemoteFile, folder: Path, mirror: str | None = None) -> Path:
    """Download one file, verify it, and only then put it in its place.

    Raises:
        DataError: no answer, or another checksum. Nothing is left behind.
        StorageError: the folder cannot be written.
    """
    url = f"{(mirror or file.url).rstrip('/')}/{file.name}"
    if not url.startswith(("https://", "http://")):
        raise DataError(f"cannot download from {url}: expected an http(s) address")
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with written_whole(folder / file.name) as aside:
            found = _stream(url, aside, file)
            if found != file.checksum:
                raise DataError(
                    f"{url}: wrong checksum: {file.algorithm} {found}, expected {file.checksum}; "
                    "nothing was kept"
                )
    except BaseException:
        for path in absent:  # innermost first; one that holds something by now stays
            with suppress(OSError):
                path.rmdir()
        raise
    return folder / file.name


def _stream(url: str, path: Path, file: RemoteFile) -> str:
    """Copy an address into a file; return the hexadecimal digest of what came.

    Troubles of the network are DataErrors; those of the disk go through as they are.
    """
    digest = hashlib.new(file.algorithm, usedforsecurity=False)
    with _open(url) as answer, path.open("wb") as out:
        total, done = int(answer.headers.get("Content-Length") or 0), 0
        for block in _blocks(answer, url):
            out.write(block)
            digest.update(block)
            done += len(block)
            _say(file.name, done, total)
    if done < total:
        raise DataError(f"download of {url} broke off after {done:,} of {total:,} bytes")
    return digest.hexdigest()


def _open(url: str) -> Any:
    from http.client import HTTPException
    from urllib.error import URLError
    from urllib.request import Request, urlopen

    try:
        return urlopen(Request(url, headers={"User-Agent": "limbeck"}), timeout=60)
    except URLError as error:
        raise DataError(f"cannot download {url}: {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise DataError(f"cannot download {url}: {error}") from error


def _blocks(answer: Any, url: str) -> Iterator[bytes]:
    from http.client import HTTPException

    while True:
        try:
            block = answer.read(BLOCK)
        except (OSError, HTTPException) as error:
            raise DataError(f"download of {url} broke off: {error}") from error
        if not block:
            return
        yield block


def _say(name: str, done: int, total: int) -> None:
    """Show progress on a terminal; say nothing elsewhere."""
    if sys.stderr.isatty():
        share = f" {100 * done // total} %" if total else ""
        end = "\n" if total and done >= total else ""
        sys.stderr.write(f"\r{name}: {done / 2**20:.1f} MiB{share}{end}")
        sys.stderr.flush()
