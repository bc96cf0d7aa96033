"""Visits: how a run will look at its training samples, told to teachers before the first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from limbeck.data.batch import Batch, first_tensor, stretched
from limbeck.taps.outputs import Outputs


def _alone() -> None:
    """One process waits for nobody."""


def _at_once(work: Callable[[], Any]) -> Any:
    """One process leads itself."""
    return work()


@dataclass(frozen=True, kw_only=True)
class Visits:
    """How a run will look at its training samples.

    Attributes:
        seed: the run's seed: with the index and the view, it decides augmented pixels.
        views: number of augmented views that are cycled; None: a new one every epoch.
        epochs: passes over the samples.
        rows: samples a teacher is asked about at once; the last, fewer, are padded to as many.
        channels_last: whether images come in that memory format.
        compile: whether torch.compile is used.
        changing: names of the methods that change samples before the teacher sees them.
        rank: this process among ``world_size``.
        world_size: processes in all.
        barrier: waits for all processes.
        lead: lets rank 0 do something while the others wait; all get its result, or its error.
    """

    seed: int = 0
    views: int | None = None
    epochs: int = 1
    rows: int = 64
    channels_last: bool = False
    compile: bool = False
    changing: tuple[str, ...] = ()
    rank: int = 0
    world_size: int = 1
    barrier: Callable[[], None] = _alone
    lead: Callable[[Callable[[], Any]], Any] = _at_once


def ask_padded(ask: Callable[[Batch], Outputs], batch: Batch, rows: int) -> Outputs:
    """Ask about a batch as one of ``rows`` samples, the last one repeated where it has fewer.

    A matrix product may sum in another order for another number of rows, so a sample in a smaller
    batch can get an answer that differs in its last bits. Padded, a sample's answer does not
    depend on how many came with it.
    """
    size = len(first_tensor(batch.inputs))
    if size >= rows or size == 0:
        return ask(batch)
    return ask(stretched(batch, rows)).map(lambda tensor: tensor[:size])
