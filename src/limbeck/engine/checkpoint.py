"""Checkpoints: written aside, synced, renamed; read only whole; never unpickled."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from limbeck.errors import CheckpointError
from limbeck.files import digest, storage_errors, sync_folder

FORMAT = 1


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint in memory: tensors by name, and plain data."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save_checkpoint(folder: Path, step: int, snapshot: Snapshot, *, keep: int) -> Path:
    """Write ``folder/step-…`` so that it exists whole or not at all, and drop the oldest.

    Args:
        folder: the run's checkpoint folder.
        step: optimiser steps done; names the checkpoint.
        snapshot: what to write.
        keep: how many of the newest stay.

    Raises:
        StorageError: it could not be written; earlier checkpoints are untouched.
    """
    final = folder / f"step-{step:08d}"
    aside = folder / f".writing-{step:08d}"
    earlier = _newest_first(folder)
    last = earlier[0].name if earlier else "none yet"
    with storage_errors(final, f"Last good checkpoint: {last}. Make room, then resume."):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            _write_parts(aside, snapshot)
            if final.exists():
                _discard(final)
            aside.rename(final)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        sync_folder(folder)
    for old in _newest_first(folder)[keep:]:
        _discard(old)
    return final


def _write_parts(folder: Path, snapshot: Snapshot) -> None:
    tensors = folder / "tensors.safetensors"
    own = {name: tensor.detach().cpu().clone() for name, tensor in snapshot.tensors.items()}
    try:
        save_file({name: tensor.contiguous() for name, tensor in own.items()}, tensors)
    except SafetensorError as error:  # it wraps the OSError of the write
        raise _as_os_error(error) from error
    state = {"format": FORMAT, "tensors": digest(tensors), **snapshot.state}
    (folder / "state.json").write_text(json.dumps(state))
    for path in (tensors, folder / "state.json"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)


def _as_os_error(error: SafetensorError) -> OSError:
    """Read the errno out of safetensors' message, e.g. "… (os error 28)"."""
    text = str(error)
    number = text.rpartition("os error ")[2].rstrip(") \n") if "os error " in text else ""
    return OSError(int(number), text) if number.isdigit() else OSError(text)


def load_latest(folder: Path) -> tuple[Snapshot, list[str]]:
    """Read the newest whole checkpoint.

    Returns:
        the checkpoint, and a line about each newer one that was damaged and passed over.

    Raises:
        CheckpointError: there is none, or the newest is of another format.
    """
    notes: list[str] = []
    for path in _newest_first(folder):
        try:
            return load_checkpoint(path), notes
        except _Damaged as damage:
            notes.append(f"checkpoint {path.name} is damaged ({damage}); taking the one before")
            _put_away(path)
    detail = "; ".join(notes) or "none was written yet"
    raise CheckpointError(f"{folder}: no whole checkpoint to continue from: {detail}")


class _Damaged(Exception):
    pass


def _put_away(path: Path) -> None:
    """Keep a damaged checkpoint for a look, under a name that is not read again."""
    aside = path.with_name(f".damaged-{path.name}")
    with storage_errors(aside):
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)


def load_checkpoint(path: Path) -> Snapshot:
    """Read one checkpoint, verified against its own digest."""
    try:
        state = json.loads((path / "state.json").read_text())
        tensors_path = path / "tensors.safetensors"
        found = state["format"]
        if found != FORMAT:
            raise CheckpointError(
                f"{path}: checkpoint format {found}, this version reads {FORMAT}; "
                "continue it with the version of Limbeck that wrote it"
            )
        if digest(tensors_path) != state["tensors"]:
            raise _Damaged("its tensors do not match their digest")
        return Snapshot(load_file(tensors_path), state)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise _Damaged(f"{type(error).__name__}: {error}") from error


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _discard(path: Path) -> None:
    """Remove a checkpoint so that a kill half-way leaves nothing that looks like one."""
    trash = path.with_name(f".trash-{path.name}-{os.getpid()}")
    path.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed writers left behind."""
    for pattern in (".writing-*", ".trash-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


# Flattening of nested states into tensors by name, and back.


def pack(prefix: str, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a module's state dict with ``prefix/`` before each name."""
    return {f"{prefix}/{name}": value for name, value in state.items() if isinstance(value, Tensor)}


def unpack(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what :func:`pack` stored under ``prefix``."""
    start = f"{prefix}/"
    return {
        name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)
    }


def pack_optimizer(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's state into tensors by name and plain data."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, entry in state["state"].items():
        for key, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
            else:
                plain.setdefault(str(index), {})[key] = value
    return tensors, {"groups": state["param_groups"], "plain": plain}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    """Restore what :func:`pack_optimizer` split."""
    state: dict[int, dict[str, Any]] = {
        int(index): dict(entry) for index, entry in plain["plain"].items()
    }
    for name, value in unpack("optimizer", tensors).items():
        index, key = name.split("/", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": plain["groups"]})
