"""What fixed teachers said about whole splits, kept for the runs of one process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from torch import Tensor

MOST = 2**28  # bytes


class KnownAnswers:
    """Logits by what decides them; where they grow too many, those used longest ago go first.

    Args:
        most: bytes that are kept at most.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, ask: Callable[[], Tensor]) -> Tensor:
        """Return what is kept under a key; asked for, and kept, where nothing is.

        Args:
            key: all that decides the answer: network, data, split, precision.
            ask: gives the answer; what it gives must not be changed afterwards.
        """
        if key not in self._kept:
            self._kept[key] = ask()
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(map(_size, self._kept.values())) > self._most:
            self._kept.popitem(last=False)
        return self._kept[key]


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
