"""Imbalance: how many samples of each class a long-tailed training part has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.data.seeds import permutation
from limbeck.errors import DataError, RecipeError, unknown

KEYS = ("ratio", "profile", "order", "seed")
PROFILES = ("exponential", "power")
ORDERS = ("number", "drawn")
KEY = "data.imbalance"


@dataclass(frozen=True)
class Imbalance:
    """The shape of a long tail.

    Attributes:
        ratio: samples of the commonest class over those of the rarest, at least 1; 1: all alike.
        profile: over the rank r of a class of C, in [0, C): "exponential", ratio^(-r / (C - 1));
            "power", (r + 1)^(-ln ratio / ln C).
        order: which classes are common: "number": class 0 is the commonest; "drawn": by lot.
        seed: of that lot, at least 0.
    """

    ratio: float
    profile: str = "exponential"
    order: str = "number"
    seed: int = 0


def read_imbalance(given: float | Mapping[str, Any]) -> Imbalance:
    """Return the tail that an option of the data means: a ratio, or the fields of `Imbalance`.

    Raises:
        RecipeError: another key, a number out of range, an unknown profile or order.
    """
    values: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {"ratio": given}
    for key in values:
        if key not in KEYS:
            raise RecipeError(f"{KEY}: " + unknown("key", str(key), KEYS))
    values = {"ratio": None, "profile": "exponential", "order": "number", "seed": 0, **values}
    ratio, profile, order, seed = (values[key] for key in KEYS)
    number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
    if not number or not 1 <= ratio < math.inf:
        raise RecipeError(f"{KEY}.ratio: expected a number of at least 1, got {ratio!r}")
    for key, value, choices in (("profile", profile, PROFILES), ("order", order, ORDERS)):
        if value not in choices:
            raise RecipeError(f"{KEY}.{key}: " + unknown(key, str(value), choices))
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise RecipeError(f"{KEY}.seed: expected a whole number of at least 0, got {seed!r}")
    return Imbalance(float(ratio), profile, order, seed)


def class_sizes(there: Tensor, tail: Imbalance, total: int | None = None) -> Tensor:
    """Return how many samples of each class to take, int64 ``[classes]``.

    Sizes never rise with the rank of a class.

    Args:
        there: int64 ``[classes]``: labelled samples of each class.
        tail: the shape.
        total: samples to take in all; None: as many as the shape allows.

    Raises:
        RecipeError: a class would be left empty, or there is one class only.
        DataError: a class has no sample, or fewer than its place in the shape asks for.
    """
    count = len(there)
    if count < 2:
        raise RecipeError(f"{KEY}: expected at least two classes, the data have {count}")
    if int(there.min()) == 0:
        raise DataError(f"{KEY}: class {int(there.argmin())} has no training sample")
    order = permutation(tail.seed, 0, count) if tail.order == "drawn" else torch.arange(count)
    shares = _profile(tail, count)  # by rank
    there = there[order]
    head = float((there / shares).min())
    if total is None:
        sizes = (head * shares).round().long()
    else:
        sizes = _shared_out(total, shares)
        if bool((sizes > there).any()):
            short = int((sizes > there).nonzero()[0])
            raise DataError(
                f"{KEY}: ratio {tail.ratio:g} with {total:,} training samples needs "
                f"{int(sizes[short]):,} of class {int(order[short])}, {int(there[short]):,} there; "
                f"at most num_train={_most(there, shares)}"
            )
    if int(sizes.min()) == 0:
        empty = int(order[int((sizes == 0).nonzero()[0])])
        raise RecipeError(
            f"{KEY}.ratio: {tail.ratio:g} leaves class {empty} without a training sample; give a "
            "smaller ratio or more samples"
        )
    found = torch.empty_like(sizes)
    found[order] = sizes
    return found


def _profile(tail: Imbalance, count: int) -> Tensor:
    ranks = torch.arange(count, dtype=torch.float64)
    if tail.profile == "power":
        return (ranks + 1) ** (-math.log(tail.ratio) / math.log(count))
    return tail.ratio ** (-ranks / (count - 1))


def _shared_out(total: int, shares: Tensor) -> Tensor:
    """Return whole sizes that sum to ``total``, the left over given to the commonest first."""
    sizes = (total * shares / shares.sum() + 1e-9).floor().long()
    sizes[: total - int(sizes.sum())] += 1  # so that no class overtakes a commoner one
    return sizes


def _most(there: Tensor, shares: Tensor) -> int:
    """Return the largest total that no class is too small for."""
    total = int(float(((there + 1) / shares).min()) * float(shares.sum()))
    while bool((_shared_out(total, shares) > there).any()):
        total -= 1
    return total
