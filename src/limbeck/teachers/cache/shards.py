"""Shards: safetensors files of consecutive rows that say what they are and check themselves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from limbeck.errors import CacheError
from limbeck.files import write_bytes

SHARD_ROWS = 4096
SHARD_BYTES = 16 * 1024 * 1024
_RENEW = (
    "repair it (limbeck cache RECIPE --repair; CachedTeacher.repair), or delete the folder and "
    "capture anew"
)
_HEADER = "limbeck"  # one entry: safetensors writes several in no fixed order


def shard_file(view: int, number: int) -> str:
    """Return the path of a shard inside of its cache."""
    return f"view-{view:04d}/{number:05d}.safetensors"


def rows_in_shard(row_bytes: int, piece: int) -> int:
    """Return the rows of a full shard: some whole batches, neither many rows nor many bytes."""
    rows = min(SHARD_ROWS, SHARD_BYTES // row_bytes)
    return max(1, rows // piece) * piece


def write_shard(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """Write a shard whole or not at all; the same content always gives the same bytes.

    Returns:
        the sha256 of the file.
    """
    tensors = {name: value.contiguous() for name, value in sorted(tensors.items())}
    said = {**header, "content": _content(tensors, header)}
    content = save(tensors, {_HEADER: json.dumps(said, sort_keys=True)})
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def read_header(path: Path) -> dict[str, Any] | None:
    """Return what a shard says of itself if that and all its tensors are whole; None otherwise."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            said: dict[str, Any] = json.loads(file.metadata()[_HEADER])
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        content = said.pop("content")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
    return said if content == _content(tensors, said) else None


def check_shard(folder: Path, entry: Mapping[str, Any], place: Mapping[str, Any]) -> None:
    """Raise CacheError unless a shard is the one that the manifest lists.

    Args:
        folder: the cache.
        entry: the manifest's: file, bytes, sha256.
        place: what the shard must say of itself: cache, view, begin and end.
    """
    check_present(folder, entry)
    path = folder / entry["file"]
    where = f"cache {folder}: {entry['file']}"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != entry["sha256"]:
        raise CacheError(
            f"{where} is damaged: its sha256 is {found[:12]}…, the manifest says "
            f"{entry['sha256'][:12]}…; {_RENEW}"
        )
    try:
        with safe_open(path, "pt") as opened:
            said = json.loads(opened.metadata()[_HEADER])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{where} is no shard of a cache; {_RENEW}") from error
    for name, wanted in place.items():
        if said.get(name) != wanted:
            raise CacheError(
                f"{where} is of another place: its {name} is {str(said.get(name))[:12]}, expected "
                f"{str(wanted)[:12]}; {_RENEW}"
            )


def check_present(folder: Path, entry: Mapping[str, Any]) -> None:
    """Raise CacheError unless a shard is there in its full size."""
    path = folder / entry["file"]
    where = f"cache {folder}: {entry['file']}"
    if not path.is_file():
        raise CacheError(f"{where} is missing; {_RENEW}")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise CacheError(f"{where} has {size:,} bytes, expected {entry['bytes']:,}; {_RENEW}")


def map_shard(path: Path) -> dict[str, Tensor]:
    """Return a shard's tensors, mapped into memory: pages are read when they are touched."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _content(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """Return the sha256 of all that a shard holds and says."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, value in tensors.items():
        digest.update(f"|{name}|{value.dtype}|{list(value.shape)}|".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
