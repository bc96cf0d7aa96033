"""Class numbers of labels that are numbers or names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from limbeck.data.batch import IGNORE
from limbeck.errors import DataError, nearest

Label = int | str | None


def class_numbers(
    labels: Mapping[str, Sequence[Label]],
    class_names: Sequence[str],
    where: Callable[[str, int], str],
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Return (class names, class numbers by part) of labels that are all numbers or all names.

    Numbers stay as they are. Names are numbered in the order of ``class_names``, or of the
    alphabet, among those that occur in train.

    Args:
        labels: of each part, "train" among them; None or -100: no label.
        class_names: the names in order, where they are known.
        where: what messages call a sample, of part and row.

    Raises:
        DataError: numbers and names mixed, a negative number, or a name that is not known: with
            the sample.
    """
    words = sum(isinstance(one, str) for one in labels["train"])
    named = words > sum(isinstance(one, int) for one in labels["train"])  # the odd one is named
    names = tuple(class_names)
    if named and not names:
        names = tuple(sorted({one for one in labels["train"] if isinstance(one, str)}))
    numbers = {name: number for number, name in enumerate(names)}

    def number(part: str, row: int, label: Label) -> int:
        if label is None or label == IGNORE:
            return IGNORE
        if isinstance(label, str) != named:
            raise DataError(f"{where(part, row)}: label {label!r} among {_kind(named)}")
        if isinstance(label, int):
            if label < 0:
                raise DataError(
                    f"{where(part, row)}: label {label} is negative; expected 0 or more, or "
                    f"{IGNORE} for no label"
                )
            return label
        if label not in numbers:
            guess = nearest(label, numbers)
            hint = f": did you mean {guess!r}?" if guess else ""
            source = "is not among class_names" if class_names else "does not occur in train"
            raise DataError(f"{where(part, row)}: class {label!r} {source}{hint}")
        return numbers[label]

    return names, {
        part: torch.tensor(
            [number(part, row, label) for row, label in enumerate(rows)], dtype=torch.int64
        )
        for part, rows in labels.items()
    }


def _kind(named: bool) -> str:
    return "labels that are names" if named else "labels that are numbers"
