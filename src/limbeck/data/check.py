"""Reading targets for a task, and refusing data that no model can learn from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from limbeck.data.batch import IGNORE
from limbeck.data.datasets import DatasetSamples, check_finite
from limbeck.data.samples import ConcatSamples, Samples, TensorSamples, in_chunks
from limbeck.errors import DataError, RecipeError, unknown

TASKS = ("classification", "multilabel", "regression")


def infer_task(targets: Tensor) -> str:
    """Guess the task: whole numbers are classes, rows of 0 and 1 several labels, else regression.

    Raises:
        DataError: no sample has a label, so there is nothing to guess from.
    """
    known = targets[~torch.isnan(targets)] if targets.is_floating_point() else targets
    if len(known) == 0 or (not targets.is_floating_point() and bool((known == IGNORE).all())):
        raise DataError("no train sample has a label: say task= and num_classes=")
    if targets.dim() == 2 and targets.shape[1] > 1 and bool(((known == 0) | (known == 1)).all()):
        return "multilabel"
    return "regression" if targets.is_floating_point() else "classification"


def count_outputs(targets: Tensor, task: str) -> int:
    """Return the number of classes (largest label + 1) or of outputs of raw targets.

    Raises:
        DataError: no sample has a class.
    """
    if task != "classification":
        return 1 if targets.dim() == 1 else targets.shape[1]
    known = targets[torch.isfinite(targets)] if targets.is_floating_point() else targets
    largest = int(known.max()) if known.numel() else IGNORE
    if largest < 0:
        raise DataError("no train sample has a label: say num_classes=")
    return largest + 1


def canonical_targets(targets: Tensor, task: str, num_outputs: int, split: str) -> Tensor:
    """Return targets in the one form that the rest of Limbeck knows.

    Returns:
        int64 ``[n]`` in [0, num_outputs) or ``IGNORE`` (classification), or float
        ``[n, num_outputs]``, NaN without a label (multilabel: 0 and 1).

    Raises:
        DataError: naming split, sample and value: a label that is not whole, or out of range, an
            infinite value, another number of outputs.
        RecipeError: an unknown task.
    """
    if task not in TASKS:
        raise RecipeError(unknown("task", task, TASKS))
    if task == "classification":
        return _classes(targets, num_outputs, split)
    if not targets.is_floating_point():
        blank = targets.dim() == 1 and bool((targets == IGNORE).all())
        targets = torch.full((len(targets), num_outputs), torch.nan) if blank else targets.float()
    targets = targets[:, None] if targets.dim() == 1 else targets
    if targets.dim() != 2 or targets.shape[1] != num_outputs:
        raise DataError(
            f"{split}: targets of shape {list(targets.shape)}; expected [samples, {num_outputs}]"
        )
    wrong = torch.isinf(targets)
    if task == "multilabel":
        wrong = ~(torch.isnan(targets) | (targets == 0) | (targets == 1))
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        expected = "0 or 1" if task == "multilabel" else "a finite number"
        value = float(targets[row, column])
        raise DataError(f"{split}, sample {row}: target {value:g}; expected {expected}")
    return targets


def _classes(targets: Tensor, num_classes: int, split: str) -> Tensor:
    if targets.dim() == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.dim() != 1:
        raise DataError(
            f"{split}: targets of shape {list(targets.shape)}; expected one class a sample "
            "(task='multilabel' for several labels a sample)"
        )
    if targets.is_floating_point():
        blank = torch.isnan(targets)
        fraction = ~blank & ((targets != targets.round()) | torch.isinf(targets))
        if bool(fraction.any()):
            row = int(fraction.nonzero()[0])
            raise DataError(
                f"{split}, sample {row}: label {float(targets[row]):g} is not a whole number "
                "(task='regression' for real values)"
            )
        targets = torch.where(blank, torch.full_like(targets, IGNORE), targets)
    classes = targets.to(torch.int64)
    wrong = ((classes < 0) | (classes >= num_classes)) & (classes != IGNORE)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise DataError(
            f"{split}, sample {row}: label {int(classes[row])} is out of range; expected 0 to "
            f"{num_classes - 1}, or {IGNORE} for no label"
        )
    return classes


def check_inputs(samples: Samples, split: str) -> None:
    """Refuse an empty set and inputs that are NaN or infinite.

    Sets that are read item by item are checked as they are read, without a pass here.

    Raises:
        DataError: naming split, sample and value.
    """
    if len(samples) == 0:
        raise DataError(f"the {split} data are empty: expected at least one sample")
    if isinstance(samples, ConcatSamples):
        for part in samples.parts:
            check_inputs(part, split)
        return
    start = 0
    try:
        first = samples.fetch(torch.zeros(1, dtype=torch.int64))[0]
        values = _tensors(first)
        if isinstance(samples, DatasetSamples) or not any(v.is_floating_point() for v in values):
            return
        if isinstance(samples, TensorSamples):
            check_finite(samples.inputs, torch.arange(len(samples)))
            return
        for inputs, targets in in_chunks(samples):
            check_finite(inputs, torch.arange(start, start + len(targets)))
            start += len(targets)
    except DataError as error:
        raise DataError(f"{split}, {error}") from None


def _tensors(inputs: Any) -> list[Tensor]:
    named = inputs if isinstance(inputs, Mapping) else {"": inputs}
    for name, value in named.items():
        if not isinstance(value, Tensor):
            what = f"input {name!r}" if name else "the input"
            raise DataError(
                f"{what} is of type {type(value).__name__}; expected a tensor, or a mapping of "
                "tensors (collate= makes them)"
            )
    if not named:
        raise DataError("the input mapping is empty; expected a mapping of tensors")
    return list(named.values())
