"""The batches of Limbeck's own loop, for the loop of another engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset

from limbeck.data import batches, steps_per_epoch
from limbeck.data.batch import Batch
from limbeck.integrations.course import Course
from limbeck.methods.context import Context

if TYPE_CHECKING:
    from limbeck.data import DataBundle


class EpochBatches(Dataset[Batch]):
    """The steps of the present epoch, each a whole batch; its length is that of the epoch.

    Args:
        course: says which samples the epoch has.
        data: gives the augmentation.
        ctx: says which epoch it is, and which process this is.
        size: samples a step, over all processes.
        seed: the training's seed.
        drop_last: whether to leave out the smaller last step.
    """

    def __init__(
        self,
        course: Course,
        data: DataBundle,
        ctx: Context,
        *,
        size: int,
        seed: int,
        drop_last: bool,
    ) -> None:
        self._course, self._data, self._ctx = course, data, ctx
        self._size, self._seed, self._drop_last = size, seed, drop_last
        self._next = (-1, -1)
        self._running: Iterator[list[Batch]] = iter(())

    def __len__(self) -> int:
        return steps_per_epoch(
            self._course.view,
            self._size,
            world_size=self._ctx.world_size,
            drop_last=self._drop_last,
        )

    def __getitem__(self, step: int) -> Batch:
        place = (self._ctx.epoch, step)
        if place != self._next:
            self._running = self._from(step)
        (batch,) = next(self._running)
        self._next = (self._ctx.epoch, step + 1)
        return batch

    def _from(self, step: int) -> Iterator[list[Batch]]:
        return batches(
            self._course.view,
            batch_size=self._size,
            seed=self._seed,
            epoch=self._ctx.epoch,
            augment=self._data.augment_train,
            rank=self._ctx.rank,
            world_size=self._ctx.world_size,
            start_step=step,
            drop_last=self._drop_last,
        )


def epoch_loader(batches: EpochBatches) -> DataLoader[Any]:
    """Return a loader of them, which reads them in this process."""
    return DataLoader(
        batches, batch_size=None, generator=torch.Generator()
    )  # draws no global number
