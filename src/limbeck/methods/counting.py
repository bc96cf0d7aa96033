"""Runtimes that count, for the log, in how many samples something happened."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.methods.base import Method, Runtime


class CountingRuntime(Runtime):
    """Counts samples by name over an epoch, and reports their shares.

    The counts are buffers: a run that resumes within an epoch reports what it would have. Every
    rank counts its own samples; rank 0 writes the log.

    Args:
        method: the method at work.
        names: what is counted.
    """

    def __init__(self, method: Method, names: tuple[str, ...]) -> None:
        super().__init__(method)
        self.names = names
        self.counts: Tensor
        self.register_buffer("counts", torch.zeros(len(names) + 1, dtype=torch.int64))

    def count(self, total: int, **happened: Tensor) -> None:
        """Add the samples of a step: how many there were, and masks of where it happened."""
        self.counts[-1] += total
        for position, name in enumerate(self.names):
            self.counts[position] += happened[name].sum()

    def report(self) -> Mapping[str, float]:
        """Return the share of each since the last report."""
        *found, total = self.counts.tolist()
        self.counts.zero_()
        return {
            f"{name}_share": value / max(total, 1)
            for name, value in zip(self.names, found, strict=True)
        }
