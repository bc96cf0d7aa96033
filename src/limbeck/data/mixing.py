"""Samples as training sees them: fetched, augmented, and mixed where that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from limbeck.data.augment import Augment
from limbeck.data.batch import Batch
from limbeck.data.prefetch import prefetch
from limbeck.data.seeds import counter_integers, counter_uniform, mix
from limbeck.data.splits import without_labels
from limbeck.data.view import View
from limbeck.errors import ShapeError

PARTNER, PART = 0x4D4958, 0x4D4959  # streams of random numbers: with whom, and how much of them


def shown(
    view: View, requests: Iterable[Tensor], augment: Augment, *, seed: int, number: int
) -> Iterator[Batch]:
    """Yield the batch of each request as training sees it.

    With mixup, each sample is ``(1 - s) own + s other``: the other is any sample of the view, in
    its own augmented view of that number, and s is uniform in [0, ``augment.steps.mixup``). Both
    depend on (seed, number, index) alone, as all augmentation does, so that teacher, student and
    cache see the same mixture. Mixed samples have no label: whose would it be?

    Args:
        view: the samples, and those they are mixed with.
        requests: base positions of each batch.
        augment: what is done to raw inputs.
        seed: the run's seed.
        number: number of the augmented view.
    """
    work = ((index, mix(seed, number)) for index in requests)
    fetch = _Fetch(view, augment, seed, number)
    for raw, others in prefetch(fetch, work, getattr(view.samples, "num_workers", 0)):
        batch = _augmented(raw, augment, seed, number)
        if others is not None:
            batch = _mixed(batch, _augmented(others, augment, seed, number), augment, seed, number)
        yield batch


class _Fetch:
    """Fetches samples, and those that they are mixed with."""

    def __init__(self, view: View, augment: Augment, seed: int, number: int) -> None:
        self.view, self.augment, self.seed, self.number = view, augment, seed, number

    def __call__(self, index: Tensor, fetch_seed: int) -> tuple[Batch, Batch | None]:
        own = self.view.at(index, fetch_seed)
        if not self.augment.steps.mixup:
            return own, None
        places = counter_integers(self.seed, self.number, index, PARTNER, len(self.view))
        return own, self.view.at(self.view.indices[places], fetch_seed)


def _augmented(raw: Batch, augment: Augment, seed: int, number: int) -> Batch:
    return raw.replace(inputs=augment(raw.inputs, raw.index, seed=seed, view=number))


def _mixed(own: Batch, other: Batch, augment: Augment, seed: int, number: int) -> Batch:
    if not isinstance(own.inputs, Tensor) or not own.inputs.is_floating_point():
        raise ShapeError("mixup: mixes numbers, and these inputs are not one tensor of floats")
    assert own.index is not None
    part = augment.steps.mixup * counter_uniform(seed, number, own.index, PART)
    part = part.to(own.inputs).view(-1, *[1] * (own.inputs.dim() - 1))
    targets = own.targets
    if targets is not None:
        targets = without_labels(targets, torch.arange(len(targets)))
    return own.replace(inputs=torch.lerp(own.inputs, other.inputs, part), targets=targets)
