"""Label columns of Hugging Face data sets as targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.data.check import TASKS
from limbeck.data.sources.classes import class_numbers
from limbeck.errors import DataError, RecipeError, unknown


def read_targets(
    parts: Mapping[str, Any], label: str, task: str | None
) -> tuple[str, tuple[str, ...], dict[str, Tensor]]:
    """Return (task, class names, targets by part) of a label column.

    ClassLabel and whole numbers are classes, text is class names, real numbers are values, lists
    of classes become multi-hot rows, lists of numbers are rows of labels or values. A missing
    entry is a sample without a label.

    Args:
        parts: data set of each part, "train" among them.
        label: the column.
        task: None: by the column's type.

    Raises:
        DataError: naming part and sample: a label that is negative, unknown, or of another kind.
        RecipeError: an unknown task.
    """
    if task is not None and task not in TASKS:
        raise RecipeError(unknown("task", task, TASKS))
    feature = parts["train"].features[label]
    entries = {part: rows.with_format(None)[label][:] for part, rows in parts.items()}
    inner = _inner(feature)
    if inner is not None:
        names = tuple(getattr(inner, "names", ()) or ())
        if names:
            hot = {part: _multi_hot(rows, names, part) for part, rows in entries.items()}
            return "multilabel", names, hot
        values = {part: _rows(rows, part, label) for part, rows in entries.items()}
        known = values["train"][~torch.isnan(values["train"])]
        hot_only = bool(((known == 0) | (known == 1)).all())
        return task or ("multilabel" if hot_only else "regression"), (), values
    kind = str(getattr(feature, "dtype", feature))
    if task == "regression" or (task is None and kind.startswith("float")):
        numbers = {part: _values(rows, part, label) for part, rows in entries.items()}
        return "regression", (), numbers
    whole = {part: [_class(v, part, row) for row, v in enumerate(entries[part])] for part in parts}
    names = tuple(getattr(feature, "names", ()) or ())
    names, targets = class_numbers(whole, names, lambda part, row: f"{part}, sample {row}")
    return "classification", names, targets


def hides_labels(rows: Any, label: str) -> bool:
    """Whether no sample has a label: missing ones, or -1, as the hub marks those of contests."""
    if label not in rows.column_names or _inner(rows.features[label]) is not None:
        return False
    return all(value is None or value == -1 for value in rows.with_format(None)[label][:])


def _inner(feature: Any) -> Any:
    """Return the feature inside of a list, or None."""
    if isinstance(feature, list):
        return feature[0]
    return getattr(feature, "feature", None)


def _class(value: Any, part: str, row: int) -> int | str | None:
    if value is None or isinstance(value, int | str):
        return int(value) if isinstance(value, bool) else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, float):
        raise DataError(
            f"{part}, sample {row}: label {value:g} is not a whole number (data.task=regression "
            "for real values)"
        )
    raise DataError(f"{part}, sample {row}: label of type {type(value).__name__}; expected a class")


def _values(rows: Sequence[Any], part: str, label: str) -> Tensor:
    for row, value in enumerate(rows):
        if isinstance(value, str):
            raise DataError(f"{part}, sample {row}: column {label!r}: {value!r} is not a number")
    blank = float("nan")
    return torch.tensor([blank if v is None else float(v) for v in rows])[:, None]


def _multi_hot(rows: Sequence[Any], names: Sequence[str], part: str) -> Tensor:
    hot = torch.zeros(len(rows), len(names))
    for row, classes in enumerate(rows):
        if classes is None:
            hot[row] = float("nan")
            continue
        for one in classes:
            if not 0 <= one < len(names):
                raise DataError(
                    f"{part}, sample {row}: label {one} is out of range; expected 0 to "
                    f"{len(names) - 1}"
                )
            hot[row, one] = 1
    return hot


def _rows(rows: Sequence[Any], part: str, label: str) -> Tensor:
    width = next((len(row) for row in rows if row is not None), 0)
    for number, row in enumerate(rows):
        if row is not None and len(row) != width:
            raise DataError(
                f"{part}, sample {number}: column {label!r} has {len(row)} entries where the first "
                f"sample has {width}"
            )
    blank = [float("nan")] * width
    return torch.tensor([blank if row is None else [float(v) for v in row] for row in rows])
