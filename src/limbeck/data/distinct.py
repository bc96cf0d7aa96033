"""Drawing without repeating: so many different numbers a sample, each a function of its counter."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.data.seeds import bits_to_integers, counter_bits, finalise

_ROUNDS = 10  # with fewer, bounds below some tens are seen not to be uniform
_FIRST_STREAM = 0x44495354  # the streams of this file; augmentations use small numbers


def counter_draws(seed: int, view: int, index: Tensor, high: Tensor, count: int) -> Tensor:
    """Return for every sample ``count`` integers below its own bound, drawn uniformly.

    They are all different where the bound allows it, else drawn with repetition. Like all numbers
    of ``seeds``, they depend on their counter alone: on no batch, rank or device.

    Args:
        seed: the run's seed.
        view: which draw: the step, say.
        index: int64 ``[batch]``: positions of the samples in their data set.
        high: int64 ``[batch]``: bounds, from 1 to 2**31 - 1.
        count: numbers a sample.

    Returns:
        int64 ``[batch, count]``.
    """
    places = torch.arange(count, device=index.device)
    enough = high >= count
    if bool(enough.all()):
        return _shuffled(seed, view, index, high, places)
    draws = index.new_empty((len(index), count))
    draws[enough] = _shuffled(seed, view, index[enough], high[enough], places)
    few = ~enough
    bits = counter_bits(seed, view, index[few, None] * count + places, _FIRST_STREAM)
    draws[few] = bits_to_integers(bits, high[few, None])
    return draws


def _shuffled(seed: int, view: int, index: Tensor, high: Tensor, places: Tensor) -> Tensor:
    """Return where a permutation of [0, high) of each sample's own sends ``places``.

    A balanced Feistel network (Luby and Rackoff 1988) permutes the next power of four; what falls
    outside goes through it again until it does not ("cycle walking", Black and Rogaway 2002).
    """
    half = _half_bits(high)[:, None]
    streams = range(_FIRST_STREAM - _ROUNDS, _FIRST_STREAM)
    keys = counter_bits(seed, view, index, streams)[:, :, None]
    found = _feistel(places.expand(len(index), -1), half, keys)
    outside = (found >= high[:, None]).nonzero()
    while len(outside):
        row, column = outside.unbind(1)
        again = _feistel(found[row, column], half[row, 0], keys[:, row, 0])
        found[row, column] = again
        outside = outside[again >= high[row]]
    return found


def _half_bits(high: Tensor) -> Tensor:
    """Return the least h with 4**h >= high."""
    powers = 4 ** torch.arange(17, device=high.device)
    return torch.searchsorted(powers, high)


def _feistel(value: Tensor, half: Tensor, keys: Tensor) -> Tensor:
    """Return one pass over ``2 * half`` bits."""
    mask = (1 << half) - 1
    left, right = value >> half, value & mask
    for key in keys:
        left, right = right, left ^ (finalise(right ^ key) & mask)
    return (left << half) | right
