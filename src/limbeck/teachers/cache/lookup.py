"""Lookup: which kept row answers for which sample of a batch, and whether one does at all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.data.batch import Batch, Draw
from limbeck.data.bundle import DataBundle
from limbeck.errors import CacheError
from limbeck.teachers.cache.drawing import captured_rows
from limbeck.teachers.cache.key import views_differ
from limbeck.teachers.visits import Visits

_NO_ROW = 2**40  # beyond any row, so that reading refuses it: nothing is looked through before


@dataclass(frozen=True)
class Place:
    """Where the answers about a batch are: a view, and its rows, int64 ``[batch]``."""

    view: int
    rows: Tensor


class Lookup:
    """Finds the rows of batches.

    Args:
        name: the teacher's, for messages.
        data: the data that the cache is about.
        visits: how the run looks at them.
        clean: whether the answers are about samples without augmentation.
    """

    def __init__(self, name: str, data: DataBundle, visits: Visits, *, clean: bool) -> None:
        self._name, self._data, self._visits, self._clean = name, data, visits, clean
        self._samples = data.splits["train"].samples
        self._one_view = clean or not views_differ(data)
        self._row_of: Tensor | None = None
        self._known: Draw | None = None

    @property
    def num_views(self) -> int:
        """How many views the run will see."""
        if self._one_view:
            return 1
        return min(self._visits.views or 1, max(self._visits.epochs, 1))

    def place(self, batch: Batch) -> Place | None:
        """Return where the answers are; None: the batch is not of training samples as drawn.

        Raises:
            CacheError: it is, but drawn otherwise than the run was foretold.
        """
        draw = batch.draw
        if draw is None or batch.index is None or batch.teacher_inputs is not None:
            return None
        if draw.samples is not self._samples:
            return None
        if batch.changed is not None and bool(batch.changed.any()):
            return None
        if draw is not self._known:
            self._refuse_other(draw)
            self._known = draw
        return Place(0 if self._one_view else draw.view, self._rows(batch.positions))

    def _refuse_other(self, draw: Draw) -> None:
        if self._clean:
            return
        augment, visits = self._data.augment_train, self._visits
        if draw.augment != augment:
            raise CacheError(
                f"teachers.{self._name}: the batch was augmented by {draw.augment.spec}, the "
                f"data's augmentation is {augment.spec}; draw batches with data.augment_train"
            )
        if self._one_view:
            return
        if draw.seed != visits.seed:
            raise CacheError(
                f"teachers.{self._name}: the batch was drawn with seed {draw.seed}, the cache is "
                f"for seed {visits.seed}; tell it with foresee(Visits(seed={draw.seed}, ...))"
            )
        if visits.views is not None and draw.view >= visits.views:
            raise CacheError(
                f"teachers.{self._name}: the batch is of view {draw.view}, but {visits.views} "
                "views are cycled; give batches(views=...) the same number"
            )

    def stranger(self, index: Tensor) -> CacheError | None:
        """Return what to say of the first of these samples that has no row; None: all have."""
        index = index.cpu()
        strangers = index[self._rows(index) == _NO_ROW]
        if len(strangers) == 0:
            return None
        return CacheError(
            f"teachers.{self._name}: sample {int(strangers[0])} is not in the training part that "
            "the cache is of"
        )

    def _rows(self, index: Tensor) -> Tensor:
        """Return the rows of samples, by their base positions; ``_NO_ROW`` of a stranger's."""
        if self._row_of is None:
            places = captured_rows(self._data)
            self._row_of = torch.full((len(self._data.splits["train"].samples),), _NO_ROW)
            self._row_of[places] = torch.arange(len(places))
        return self._row_of.index_select(0, index)
