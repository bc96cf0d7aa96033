"""Batch: what flows from data to models, methods and teachers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from limbeck.data.augment import Augment
    from limbeck.data.samples import Samples

IGNORE = -100
"""Class index of a sample without a label (torch's own ``ignore_index``)."""

_STAGED = 2**16  # bytes; what is smaller is copied to a GPU without waiting for it


@dataclass(frozen=True, eq=False)
class Draw:
    """Which view of which samples the inputs of a batch are: with the index, all that is needed
    to make the same inputs again, bit for bit.

    Attributes:
        samples: the base set that ``Batch.index`` counts in.
        augment: what was done to raw inputs.
        seed: the run's seed.
        view: number of the augmented view.
    """

    samples: Samples
    augment: Augment
    seed: int
    view: int


@dataclass(frozen=True)
class Batch:
    """A batch of samples.

    Attributes:
        inputs: what the student sees: a tensor ``[batch, ...]`` or a mapping of tensors.
        targets: class indices ``[batch]`` (``IGNORE`` where a sample has no label), multi-hot or
            real values ``[batch, outputs]`` (NaN where there is no label), or None.
        index: position of each sample in its data set, ``[batch]`` int64, or None where unknown.
        teacher_inputs: what the teacher sees where that differs from ``inputs``.
        changed: bool ``[batch]``: samples that are no longer those of the data set (mixed or
            generated), whose teacher outputs can therefore not have been cached. None: none is.
        share: this batch's share of the samples of one optimiser step, in (0, 1].
        label_share: this batch's share of that step's labelled samples, in [0, 1].
        draw: how the training loader drew these inputs; None: they are other inputs (those of an
            evaluation, or replaced since).
        index_on_host: ``index`` as it was on the CPU, before ``to`` moved it; see ``positions``.
    """

    inputs: Any
    targets: Tensor | None = None
    index: Tensor | None = None
    teacher_inputs: Any = None
    changed: Tensor | None = None
    share: float = 1.0
    label_share: float = 1.0
    draw: Draw | None = None
    index_on_host: Tensor | None = None

    def __len__(self) -> int:
        return len(first_tensor(self.inputs))

    @property
    def labelled(self) -> Tensor | None:
        """Bool ``[batch]``: which samples have a label; None where there are no targets at all."""
        return None if self.targets is None else has_label(self.targets)

    @property
    def positions(self) -> Tensor:
        """``index`` on the CPU, where what is kept there is looked up.

        Without waiting for a GPU where ``to`` moved the batch there; else it is read back.

        Raises:
            ValueError: the batch has no index.
        """
        if self.index is None:
            raise ValueError("the batch has no index: it is not known which samples it is of")
        return self.index.cpu() if self.index_on_host is None else self.index_on_host

    def _on_host(self) -> Tensor | None:
        if self.index is not None and self.index.device.type == "cpu":
            return self.index
        return self.index_on_host

    def replace(self, **changes: Any) -> Batch:
        """Return a copy with some fields changed.

        A batch whose inputs are replaced is no draw of the data set any more, unless ``draw`` is
        given too: nothing that was kept about that draw is then taken for an answer.
        """
        if changes.keys() & {"inputs", "teacher_inputs", "index"}:
            changes.setdefault("draw", None)
        if "index" in changes:
            changes.setdefault("index_on_host", None)
        return dataclasses.replace(self, **changes)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on ``device``."""
        return Batch(
            inputs=move(self.inputs, device),
            targets=move(self.targets, device),
            index=move(self.index, device),
            teacher_inputs=move(self.teacher_inputs, device),
            changed=move(self.changed, device),
            share=self.share,
            label_share=self.label_share,
            draw=self.draw,
            index_on_host=None if torch.device(device).type == "cpu" else self._on_host(),
        )


def has_label(targets: Tensor) -> Tensor:
    """Bool ``[batch]``: which samples have any label (an entry that is not ``IGNORE`` or NaN)."""
    known = ~torch.isnan(targets) if targets.is_floating_point() else targets != IGNORE
    return known.flatten(1).any(dim=1) if known.dim() > 1 else known


def first_tensor(inputs: Any) -> Tensor:
    """Return the first tensor found in (nested) inputs."""
    if isinstance(inputs, Tensor):
        return inputs
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    for value in values:
        if isinstance(value, Tensor):
            return value
        if isinstance(value, Mapping | list | tuple):
            return first_tensor(value)
    raise TypeError(f"no tensor in inputs of type {type(inputs).__name__}")


def move(value: Any, device: torch.device | str) -> Any:
    """Return ``value`` with every tensor in it on ``device``."""
    if isinstance(value, Tensor):
        if torch.device(device).type == "cpu":  # who reads it there does not wait for the copy
            return value.to(device)
        return _pinned(value, device).to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: move(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(move(item, device) for item in value)
    return value


def _pinned(value: Tensor, device: torch.device | str) -> Tensor:
    """Return a large tensor on its way to a GPU in memory that the GPU reads by itself.

    A copy from other memory waits until the GPU is done with everything before it: the next batch
    could not be made meanwhile.
    """
    if value.device.type != "cpu" or value.nbytes < _STAGED or torch.device(device).type != "cuda":
        return value
    if value.is_pinned():
        return value
    return torch.empty_like(value, pin_memory=True).copy_(value)  # an expanded one, too


def take_rows(batch: Batch, rows: Tensor) -> Batch:
    """Return the samples at ``rows``, int64 ``[n]``, of a batch."""

    def take(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.index_select(0, rows.to(value.device))
        if isinstance(value, Mapping):
            return {key: take(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(take(item) for item in value)
        return value

    names = ("inputs", "targets", "index", "teacher_inputs", "changed", "index_on_host")
    return batch.replace(**{name: take(getattr(batch, name)) for name in names}, draw=batch.draw)


def stretched(batch: Batch, size: int) -> Batch:
    """Return the batch with its last sample repeated until there are ``size``."""
    missing = size - len(batch)

    def stretch(value: Any) -> Any:
        if isinstance(value, Tensor):
            tail = value[-1:].expand(missing, *value.shape[1:])
            format = torch.channels_last if _is_channels_last(value) else torch.contiguous_format
            return torch.cat([value, tail]).contiguous(memory_format=format)
        if isinstance(value, Mapping):
            return {key: stretch(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(stretch(item) for item in value)
        return value

    names = ("inputs", "targets", "index", "teacher_inputs", "changed", "index_on_host")
    return batch.replace(**{name: stretch(getattr(batch, name)) for name in names}, draw=batch.draw)


def _is_channels_last(value: Tensor) -> bool:
    return (
        value.dim() == 4
        and not value.is_contiguous()
        and value.is_contiguous(memory_format=torch.channels_last)
    )
