"""Small caches of a real teacher about real digits, which the tests of the cache share."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from teacher_worlds import CPU
from torch import nn

from limbeck.data import Batch, DataBundle, batches, load_data
from limbeck.models import build_model
from limbeck.teachers import CachedTeacher, LiveTeacher, Visits
from limbeck.teachers.cache import shards

AUGMENT = ("flip", {"crop": 1})
ROWS = 32
SHARD_ROWS = 64  # several shards of real data that are read in a moment


_LOADED: dict[str, DataBundle] = {}


def digits(num_train: int = 230, augment: tuple[Any, ...] = AUGMENT) -> DataBundle:
    """Digits, augmented; 230 leave a ragged batch of 6 at 32 a batch, and 4 shards of 64 rows."""
    name = repr((num_train, augment))
    if name not in _LOADED:
        _LOADED[name] = load_data("digits", num_train=num_train, augment=list(augment))
    return _LOADED[name]


def network(seed: int = 1) -> nn.Module:
    """A convolutional teacher with batch norm; what it knows does not matter here."""
    torch.manual_seed(seed)
    return build_model("cnn", num_classes=10, input_shape=(1, 8, 8), channels=(8, 16))


def visits(**options: Any) -> Visits:
    return Visits(**{"seed": 0, "views": 2, "epochs": 4, "rows": ROWS, **options})


def cached(
    folder: Path | None,
    teacher: Any = None,
    *,
    data: DataBundle | None = None,
    taps: tuple[str, ...] = (),
    look: Visits | None = None,
    **options: Any,
) -> CachedTeacher:
    """A cache around a teacher, ready to be asked."""
    inner = LiveTeacher(network()) if teacher is None else teacher
    made = CachedTeacher(inner, folder, **options)
    made.foresee(look or visits())
    made.bind(data or digits(), CPU)
    made.set_taps(taps)
    return made


def epoch(
    data: DataBundle, number: int = 0, *, views: int | None = 2, seed: int = 0
) -> list[Batch]:
    """The batches of one epoch, as the engine draws them."""
    steps = batches(
        data.splits["train"],
        batch_size=ROWS,
        seed=seed,
        epoch=number,
        augment=data.augment_train,
        views=views,
    )
    return [batch for step in steps for batch in step]


def capture_all(teacher: CachedTeacher) -> Path:
    for view in range(teacher.num_views):
        teacher.capture(view)
    return teacher.folder


def bytes_in(folder: Path) -> dict[str, str]:
    """The sha256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def small_shards() -> None:
    """Make shards small, so that little data has several."""
    shards.SHARD_ROWS = SHARD_ROWS
