"""Where contrastive methods find samples that are not the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limbeck.data.batch import has_label
from limbeck.data.distinct import counter_draws
from limbeck.errors import MethodError

if TYPE_CHECKING:
    from limbeck.data import View


def groups_of(targets: Tensor | None, index: Tensor | None, *, keep_class: bool) -> Tensor:
    """Return a number for each sample, equal for those that are no negatives of each other.

    Args:
        targets: class indices ``[samples]``; other targets, and None, say nothing about sameness.
        index: int64 ``[samples]``: positions in the data set.
        keep_class: whether samples of one class may be negatives of each other.
    """
    assert index is not None
    alone = -1 - index
    if keep_class or targets is None or targets.is_floating_point() or targets.dim() != 1:
        return alone
    return torch.where(has_label(targets), targets, alone)


class NegativeSource:
    """Draws negatives for training samples from all of them, by row of a bank.

    Rows number the training samples in the order of their positions. Of a sample, all rows may be
    drawn that are not of its group, each equally likely.

    Args:
        view: the training samples.
        keep_class: whether samples of one class may be negatives of each other.

    Raises:
        MethodError: all samples are of one class.
    """

    def __init__(self, view: View, *, keep_class: bool) -> None:
        self._known = self._index = torch.unique(view.indices)  # sorted; the first stays here
        same = groups_of(view.base_targets[self._index], self._index, keep_class=keep_class)
        groups = torch.unique(same, return_inverse=True)[1]
        sizes = groups.bincount()
        if len(sizes) < 2:
            advice = "there is only one" if len(groups) < 2 else "set method.same_class=keep"
            raise MethodError(
                f"method crd: no training sample has a negative, all are of one class; {advice}"
            )
        self._by_group = groups.argsort(stable=True)
        self._size = sizes[groups]
        self._start = (sizes.cumsum(0) - sizes)[groups]

    def refuse_strangers(self, positions: Tensor) -> None:
        """Refuse samples that are none of the training samples.

        Args:
            positions: int64 ``[batch]``, on the CPU: nothing is waited for.

        Raises:
            MethodError: a sample is none of them.
        """
        rows = torch.searchsorted(self._known, positions).clamp_(max=len(self._known) - 1)
        if not torch.equal(self._known[rows], positions):
            raise MethodError("method crd: a sample of the batch is not one of the training part")

    def draw(self, index: Tensor, count: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Return the rows of samples, and rows of their negatives; see ``refuse_strangers`` first.

        Args:
            index: int64 ``[batch]``: positions of training samples in the data set.
            count: negatives a sample; all different where there are as many.
            seed: the run's seed.
            step: optimiser steps done: each has its own draw.

        Returns:
            int64 ``[batch]`` and ``[batch, count]``.
        """
        self._move(index.device)
        rows = torch.searchsorted(self._index, index)
        size, start = self._size[rows], self._start[rows]
        places = counter_draws(seed, step, index, len(self._index) - size, count)
        places = torch.where(places < start[:, None], places, places + size[:, None])
        return rows, self._by_group[places]

    def _move(self, device: torch.device) -> None:
        if self._index.device != device:
            self._index, self._by_group = self._index.to(device), self._by_group.to(device)
            self._size, self._start = self._size.to(device), self._start.to(device)
