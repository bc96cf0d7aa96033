"""Folds of the training part, for teachers that must not have seen what they are asked about."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from limbeck.data.seeds import counter_bits
from limbeck.data.splits import Splits
from limbeck.errors import RecipeError, unknown

FOLDS = 15  # stream of random numbers
KEYS = ("fold", "of", "seed")


def fold_numbers(targets: Tensor, positions: Tensor, folds: int, seed: int = 0) -> Tensor:
    """Return the fold of each position, in [0, folds), class shares kept.

    Within each class (samples without a label are one of their own) positions are put in the order
    of a hash and dealt out in turn, each class going on where the one before stopped; so folds
    differ by at most one sample, over all and within each class.

    Args:
        targets: targets of the whole base set.
        positions: int64 ``[n]``, positions in it.
        folds: at least 2.
        seed: of the cut.

    Returns:
        int64 ``[n]``.
    """
    order = torch.argsort(counter_bits(seed, 0, positions, FOLDS), stable=True)
    if targets.dim() == 1 and not targets.is_floating_point():
        order = order[torch.argsort(targets[positions][order], stable=True)]
    numbers = torch.empty(len(positions), dtype=torch.int64)
    numbers[order] = torch.arange(len(positions)) % folds
    return numbers


def without_fold(splits: Splits, targets: Tensor, leave_out: Mapping[str, Any]) -> Splits:
    """Return the splits with one fold of the train part left out.

    Args:
        splits: the parts.
        targets: targets of the train part's base set; dropped labels are dropped here too.
        leave_out: ``fold`` in [0, of), ``of``: number of folds, and ``seed`` of the cut (0).

    Raises:
        RecipeError: another key or number.
    """
    fold, folds, seed = _read(leave_out, len(splits.train))
    kept = splits.train[fold_numbers(targets, splits.train, folds, seed) != fold]
    unlabelled = splits.unlabelled[torch.isin(splits.unlabelled, kept)]
    return dataclasses.replace(splits, train=kept, unlabelled=unlabelled)


def _read(leave_out: Mapping[str, Any], size: int) -> tuple[int, int, int]:
    for key in leave_out:
        if key not in KEYS:
            raise RecipeError("data.leave_out: " + unknown("key", str(key), KEYS))
    values = {"seed": 0, **leave_out}
    for key in KEYS:
        value = values.get(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise RecipeError(f"data.leave_out.{key}: expected a whole number, got {value!r}")
    if not 2 <= values["of"] <= size:
        raise RecipeError(
            f"data.leave_out.of: expected 2 to {size:,} folds (training samples), got "
            f"{values['of']}"
        )
    if not 0 <= values["fold"] < values["of"]:
        raise RecipeError(
            f"data.leave_out.fold: expected 0 to {values['of'] - 1}, got {values['fold']}"
        )
    return values["fold"], values["of"], values["seed"]
