"""Drawing: the training samples again, as the loader draws them or without augmentation."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from limbeck.data.augment import Augment
from limbeck.data.batch import Batch, Draw, take_rows
from limbeck.data.bundle import DataBundle
from limbeck.data.mixing import shown
from limbeck.data.prefetch import prefetch
from limbeck.data.tokens import MASK, trim
from limbeck.teachers.visits import Visits

_FEW = 8


def captured_rows(data: DataBundle) -> Tensor:
    """Return the base positions of the training samples, each once, rising: the rows of a view."""
    rows: Tensor = torch.unique(data.splits["train"].indices)
    return rows


def drawn(
    data: DataBundle, visits: Visits, chunks: list[Tensor], view: int | None
) -> Iterator[Batch]:
    """Yield batches of training samples.

    Args:
        data: the data.
        visits: seed and memory format of the run.
        chunks: base positions of each batch.
        view: number of the augmented view; None: as evaluation shows the samples.
    """
    train = data.splits["train"]
    if view is None:
        workers = getattr(train.samples, "num_workers", 0)
        raw = prefetch(train.at, ((chunk, 0) for chunk in chunks), workers)
        batches: Iterator[Batch] = (
            one.replace(inputs=data.augment_eval(one.inputs, one.index)) for one in raw
        )
    else:
        batches = shown(train, chunks, data.augment_train, seed=visits.seed, number=view)
    for batch in batches:
        inputs = batch.inputs
        if visits.channels_last and isinstance(inputs, Tensor) and inputs.ndim == 4:
            inputs = inputs.to(memory_format=torch.channels_last)
        augment = data.augment_eval if view is None else data.augment_train
        draw = Draw(train.samples, augment, visits.seed, view or 0)
        yield batch.replace(inputs=inputs, draw=draw)


def in_other_company(batch: Batch, steps: Augment) -> tuple[Batch, Tensor]:
    """Return a batch of a few of a batch's samples, at all places, and which they are.

    Whatever looks at the rest of the batch, at its padding or at a sample's place in it, then
    answers otherwise. Of texts the shortest are taken, so that there is less padding.
    """
    size = len(batch)
    few = torch.arange(max(1, min(_FEW, size // 2)))
    mask = batch.inputs.get(MASK) if isinstance(batch.inputs, Mapping) else None
    if mask is not None:
        few = mask.flatten(1).sum(1).argsort(stable=True)[: len(few)]
    rows = few[torch.arange(size) % len(few)].flip(0)
    other = take_rows(batch, rows)
    return (other.replace(inputs=trim(other.inputs)) if steps.steps.trim else other), rows


def conditions(visits: Visits, device: torch.device) -> dict[str, Any]:
    """Return what must be the same for the same question to get the same bits."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    if device.type == "cpu":
        kind += f" {torch.backends.cpu.get_cpu_capability()}"
    return {
        "batch": visits.rows,
        "threads": torch.get_num_threads(),
        "device": f"{device.type} ({kind})",
        "channels_last": visits.channels_last,
        "compiled": visits.compile,
        "torch": torch.__version__,
    }
