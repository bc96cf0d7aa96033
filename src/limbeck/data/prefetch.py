"""Fetching ahead of time in worker processes, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from limbeck.errors import LimbeckError

Fetched = TypeVar("Fetched")


class _Requests(Dataset[Any]):
    """Turns a request (positions and seed) into what ``fetch`` returns for it."""

    def __init__(self, fetch: Callable[[Tensor, int], Any]) -> None:
        self.fetch = fetch

    def __getitem__(self, request: tuple[list[int], int]) -> Any:
        positions, seed = request
        try:
            return self.fetch(torch.tensor(positions, dtype=torch.int64), seed)
        except LimbeckError as error:  # carried home as a value: the loader would wrap its text
            return error


def _as_it_is(value: Any) -> Any:
    return value


def prefetch(
    fetch: Callable[[Tensor, int], Fetched],
    requests: Iterable[tuple[Tensor, int]],
    num_workers: int = 0,
) -> Iterator[Fetched]:
    """Yield ``fetch(positions, seed)`` for each request, in the order of the requests.

    With ``num_workers`` > 0 the work is done ahead in that many processes; what is yielded is the
    same. An error of Limbeck's own is raised here as it was raised there.
    """
    if num_workers == 0:
        for positions, seed in requests:
            yield fetch(positions, seed)
        return
    loader: DataLoader[Any] = DataLoader(
        _Requests(fetch),
        sampler=[(positions.tolist(), seed) for positions, seed in requests],
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_as_it_is,
    )
    for value in loader:
        if isinstance(value, LimbeckError):
            raise value
        yield value
