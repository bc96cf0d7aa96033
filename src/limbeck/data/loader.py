"""Batches: one optimiser step at a time, as a function of seed, epoch and step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from limbeck.data.augment import Augment
from limbeck.data.batch import Batch, Draw
from limbeck.data.mixing import shown
from limbeck.data.prefetch import prefetch
from limbeck.data.seeds import permutation
from limbeck.data.view import View
from limbeck.errors import DataError, RecipeError


def batches(
    view: View,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    augment: Augment,
    rank: int = 0,
    world_size: int = 1,
    accumulate: int = 1,
    start_step: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
    views: int | None = None,
) -> Iterator[list[Batch]]:
    """Yield this rank's micro-batches of each optimiser step of one epoch.

    One step covers ``batch_size`` samples over all ranks and micro-batches. The step's samples are
    cut into ``world_size * accumulate`` contiguous slices whose sizes differ by at most one, rank
    after rank. With ``share`` and ``label_share`` as weights, the sum of the slices' means is the
    mean over the whole step, however ragged: sum(share * mean) over knowledge terms, and
    sum(label_share * mean over labelled) over the task term (0 where a step has no label).

    The last, smaller step is cut into fewer micro-batches a rank where a slice would otherwise
    have a single sample, on which batch normalisation cannot train. Where it has less than two
    samples a rank it is left out: a tail of one sample on one rank, of up to three on two. The
    number of steps depends on the number of ranks in this way alone, and not on ``accumulate``.

    Order and pixels depend on (seed, epoch, step) alone: beginning at ``start_step`` yields what
    an undisturbed epoch yields from there on.

    Args:
        view: the samples.
        batch_size: samples a step, over all ranks.
        seed: the run's seed.
        epoch: number of the epoch: its order, and its augmented view.
        augment: what is done to raw inputs.
        rank: this process's number in [0, world_size).
        world_size: number of processes.
        accumulate: micro-batches a rank and step.
        start_step: first step to yield (resuming within an epoch).
        shuffle: whether the epoch has an order of its own.
        drop_last: whether to leave out the smaller last step.
        views: number of augmented views that are cycled (epoch modulo ``views``); None: a new
            one every epoch.

    Raises:
        DataError: the view has too few samples for one step.
        RecipeError: a batch that cannot be cut into that many slices.
    """
    plan = _step_sizes(len(view), batch_size, world_size, accumulate, drop_last)
    order = permutation(seed, epoch, len(view)) if shuffle else torch.arange(len(view))
    number = epoch if views is None else epoch % views
    labelled = view.labelled[order] & (augment.steps.mixup == 0)  # mixed samples have none
    labels = [0, *labelled.cumsum(0).tolist()]  # running count: labels before a place
    mine = [
        _slices(step * batch_size, *plan[step], rank, world_size)
        for step in range(start_step, len(plan))
    ]
    places = view.indices[order]
    requests = (places[a:b] for slices in mine for a, b in slices)
    drawn = shown(view, requests, augment, seed=seed, number=number)
    draw = Draw(view.samples, augment, seed, number)
    for step, slices in enumerate(mine, start_step):
        begin, size = step * batch_size, plan[step][0]
        known = labels[begin + size] - labels[begin]
        micro_batches = []
        for a, b in slices:
            label_share = (labels[b] - labels[a]) / known if known else 0.0
            micro_batches.append(
                next(drawn).replace(share=(b - a) / size, label_share=label_share, draw=draw)
            )
        yield micro_batches


def eval_batches(view: View, batch_size: int, augment_eval: Augment) -> Iterator[Batch]:
    """Yield every sample of the view once, in order, as evaluation sees it."""
    requests = ((positions, 0) for positions in torch.split(torch.arange(len(view)), batch_size))
    for raw in prefetch(view.fetch, requests, getattr(view.samples, "num_workers", 0)):
        yield raw.replace(inputs=augment_eval(raw.inputs, raw.index))


def steps_per_epoch(
    view: View | int,
    batch_size: int,
    *,
    world_size: int = 1,
    accumulate: int = 1,
    drop_last: bool = False,
) -> int:
    """Return the number of optimiser steps in an epoch over this view (or number of samples).

    Raises:
        DataError: the view has too few samples for one step.
        RecipeError: a batch that cannot be cut into that many slices.
    """
    size = view if isinstance(view, int) else len(view)
    return len(_step_sizes(size, batch_size, world_size, accumulate, drop_last))


def _step_sizes(
    num_samples: int, batch_size: int, world_size: int, accumulate: int, drop_last: bool
) -> list[tuple[int, int]]:
    """Return (samples, micro-batches a rank) of every step."""
    slices = world_size * accumulate
    if batch_size < slices:
        raise RecipeError(
            f"batch_size={batch_size} cannot be cut into {world_size} ranks x {accumulate} "
            f"micro-batches: expected at least {slices}"
        )
    full, tail = divmod(num_samples, batch_size)
    steps = [(batch_size, accumulate)] * full
    # who asks for batches (or slices) of one sample gets them
    least_a_rank, least_a_slice = min(2, batch_size // world_size), min(2, batch_size // slices)
    if tail >= least_a_rank * world_size and not drop_last:
        steps.append((tail, min(accumulate, tail // (least_a_slice * world_size))))
    if not steps:
        needed = batch_size if drop_last else least_a_rank * world_size
        raise DataError(f"{num_samples} train samples are too few: a step needs {needed}")
    return steps


def _slices(
    begin: int, size: int, micro_batches: int, rank: int, world_size: int
) -> list[tuple[int, int]]:
    """Cut a step's places into contiguous (begin, end), sizes within one; return this rank's."""
    parts = world_size * micro_batches
    bounds = [begin + part * size // parts for part in range(parts + 1)]
    return list(pairwise(bounds))[rank * micro_batches : (rank + 1) * micro_batches]
