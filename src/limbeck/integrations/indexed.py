"""Samples that carry their index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset

from limbeck.errors import DataError

INDEX = "sample_index"
"""Key of a sample's index in batches that are mappings."""


class IndexedDataset(Dataset[Any]):
    """A map-style data set whose samples carry their position, for methods that remember samples.

    A sample that is a mapping gains the key ``sample_index``; a pair ``(input, target)`` becomes
    ``(input, target, index)``.

    Args:
        dataset: a data set with ``__len__`` and ``__getitem__``.

    Raises:
        DataError: the data set has no length or no positions; on reading, samples of other forms.
    """

    def __init__(self, dataset: Any) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise DataError(
                f"data: samples of {type(dataset).__name__} have no index; expected a map-style "
                "data set with __len__ and __getitem__"
            )
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        sample = self.dataset[index]
        if isinstance(sample, Mapping):
            return {**sample, INDEX: index}
        if isinstance(sample, tuple | list) and len(sample) == 2:
            return (*sample, index)
        raise DataError(
            f"data: cannot add an index to a sample of type {type(sample).__name__}; expected a "
            "mapping or a pair (input, target)"
        )
