"""Counter-based randomness: every random number is a pure function of where it is used.

A stream of numbers is named by integers (seed, view, stream) and addressed by the sample's index,
so any draw can be replayed alone: no generator state, no order of evaluation, the same bits
whatever the batch composition, the number of ranks or the number of workers.

The hash is SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators"), in 64-bit arithmetic with wraparound.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB

PERMUTATION = 0x5045524D  # the stream of epoch orders; augmentations use small numbers


def signed(value: int) -> int:
    """Read 64 bits as a signed integer, as torch stores them."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _finalise(value: int) -> int:
    """SplitMix64's output function on one 64-bit integer."""
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK
    return value ^ (value >> 31)


def _shift(bits: Tensor, by: int) -> Tensor:
    """Logical (not arithmetic) right shift of int64."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def finalise(bits: Tensor) -> Tensor:
    """Return SplitMix64's output function on each int64 of a tensor."""
    bits = (bits ^ _shift(bits, 30)) * signed(_FIRST)
    bits = (bits ^ _shift(bits, 27)) * signed(_SECOND)
    return bits ^ _shift(bits, 31)


def _fold(*values: int) -> int:
    """Hash integers into 64 bits, order mattering."""
    state = GAMMA
    for value in values:
        state = _finalise(state ^ ((value * GAMMA + _FIRST) & _MASK))
    return state


def _fold_tensor(state: Tensor, value: Tensor | int) -> Tensor:
    """One more step of ``_fold`` on tensors of states and values."""
    if isinstance(value, int):
        return finalise(state ^ signed(value * GAMMA + _FIRST))
    return finalise(state ^ (value.to(torch.int64) * signed(GAMMA) + signed(_FIRST)))


def mix(*values: int) -> int:
    """Hash integers (negative ones too) into one seed in [0, 2**63).

    Order matters, and ``mix(a, b)`` differs from ``mix(a)`` for every ``b``.

    >>> mix(0, 1) == mix(0, 1), mix(0, 1) == mix(1, 0)
    (True, False)
    """
    return _fold(*values) >> 1


def counter_bits(
    seed: int, view: int | Tensor, index: Tensor, stream: int | Sequence[int]
) -> Tensor:
    """Return 64 random bits (int64) for every sample.

    Args:
        seed: the run's seed.
        view: which view of the samples: one number, or int64 broadcastable with ``index``.
        index: int64 ``[...]``: positions of the samples in their data set.
        stream: which of a sample's random numbers; a sequence of S streams gives ``[S, ...]``.
    """
    if not isinstance(stream, int):
        if isinstance(view, int):  # all keys at once: one pass of the hash over [S, ...]
            keys = torch.tensor([signed(_fold(seed, view, one)) for one in stream])
            keys = keys.to(index.device).view(-1, *[1] * index.dim())
            return finalise(index * signed(GAMMA) + (keys + signed(GAMMA)))
        return torch.stack([counter_bits(seed, view, index, one) for one in stream])
    if isinstance(view, int):
        key: int | Tensor = signed(_fold(seed, view, stream) + GAMMA)
    else:
        state = torch.full_like(view, signed(_fold(seed)), dtype=torch.int64)
        key = _fold_tensor(_fold_tensor(state, view), stream) + signed(GAMMA)
    return finalise(index * signed(GAMMA) + key)


def counter_uniform(
    seed: int, view: int | Tensor, index: Tensor, stream: int | Sequence[int]
) -> Tensor:
    """Return float32 uniform in [0, 1) (24 random bits); arguments as ``counter_bits``."""
    return _shift(counter_bits(seed, view, index, stream), 40).to(torch.float32) * 2.0**-24


def counter_integers(
    seed: int, view: int | Tensor, index: Tensor, stream: int | Sequence[int], high: int
) -> Tensor:
    """Return int64 uniform in [0, high), ``high`` < 2**31; arguments as ``counter_bits``.

    The bias of any value is below ``high`` / 2**32.
    """
    return bits_to_integers(counter_bits(seed, view, index, stream), high)


def bits_to_integers(bits: Tensor, high: int | Tensor) -> Tensor:
    """Turn 64 random bits each into int64 uniform in [0, high); bounds may differ (broadcast)."""
    return (_shift(bits, 32) * high) >> 32


def permutation(seed: int, epoch: int, n: int) -> Tensor:
    """Return the order of ``n`` positions in this epoch, int64 ``[n]``.

    Sorting hashed keys keeps the order the same in every torch version and on every device.
    """
    keys = counter_bits(seed, epoch, torch.arange(n), PERMUTATION)
    return torch.argsort(keys, stable=True)


def seed_everything_for_step(seed: int, step: int, rank: int = 0) -> None:
    """Seed torch (all devices), ``random`` and NumPy's global generator for one step.

    Dropout and a user's own randomness then depend on (seed, step, rank) alone, so that a resumed
    run draws what the undisturbed one would have drawn.
    """
    seed_generators(mix(seed, step, rank))


def seed_generators(value: int, devices: bool = True) -> None:
    """Seed torch (on other devices too, if so said), ``random`` and NumPy's global generator."""
    import numpy as np

    # Not torch.manual_seed: without a GPU it formats a stack trace at each call (0.4 ms).
    torch.default_generator.manual_seed(value)
    if devices and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(value)
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)  # noqa: NPY002 - the global one is what user code uses
