"""Reading what estimators answer: columns at their classes, rows that are distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from limbeck.errors import TeacherError

Array = np.ndarray[Any, Any]
_TOLERANCE = 1e-3  # float16 probabilities over a hundred classes still sum to 1 within this


def check_probabilities(name: str, answer: Array, task: str, advice: str) -> None:
    """Raise TeacherError unless the rows are distributions (for multi-label: values in [0, 1]).

    ``advice`` says what to write where they were logits all along.
    """
    if answer.size == 0:
        return
    if answer.min() < 0 or answer.max() > 1 + _TOLERANCE:
        wrong = answer.min() if answer.min() < 0 else answer.max()
        raise TeacherError(
            f"teachers.{name}: gives {wrong:.6g} as a probability, expected values in [0, 1]; "
            f"{advice}"
        )
    if task == "multilabel":
        return
    sums = answer.sum(axis=1)
    worst = int(np.abs(sums - 1).argmax())
    if abs(sums[worst] - 1) > _TOLERANCE:
        raise TeacherError(
            f"teachers.{name}: gives probabilities that sum to {sums[worst]:.6g}, expected 1; "
            f"{advice}"
        )


def classes_in_place(
    name: str,
    answer: Array,
    classes: Any,
    num_outputs: int | None,
    class_names: Sequence[str] = (),
) -> Array:
    """Put an estimator's columns at their classes; unseen classes get probability 0.

    Args:
        name: the teacher's name, for messages.
        answer: ``[batch, len(classes)]``.
        classes: the estimator's ``classes_``, the label of each column.
        num_outputs: number of classes; None: up to the largest that was seen.
        class_names: names of the data's classes, for an estimator that was fitted on names.

    Raises:
        TeacherError: labels that are neither class indices below ``num_outputs`` nor names.
    """
    labels = np.asarray(classes)
    if answer.ndim != 2 or answer.shape[1] != len(labels):
        raise TeacherError(
            f"teachers.{name}: gives outputs of shape {list(answer.shape)} for {len(labels)} "
            "classes it was fitted on"
        )
    columns = _indices(name, labels, class_names)
    size = num_outputs or (int(columns.max()) + 1)
    if columns.min() < 0 or columns.max() >= size:
        wrong = columns.min() if columns.min() < 0 else columns.max()
        raise TeacherError(
            f"teachers.{name}: was fitted on class {wrong}, the data have {size} (class counts "
            "differ)"
        )
    placed = np.zeros((len(answer), size))
    placed[:, columns] = answer
    return placed


def _indices(name: str, labels: Array, class_names: Sequence[str]) -> Array:
    places = {label: place for place, label in enumerate(class_names)}
    if len(places) == len(class_names) and all(label in places for label in labels.tolist()):
        return np.array([places[label] for label in labels.tolist()], dtype=np.int64)
    whole = labels.dtype.kind in "biu" or (
        labels.dtype.kind == "f" and bool((labels == np.round(labels)).all())
    )
    if not whole:
        raise TeacherError(
            f"teachers.{name}: was fitted on labels such as {labels.tolist()[0]!r}, expected class "
            "indices 0, 1, ... or the data's class names; fit it on the data's own targets"
        )
    return labels.astype(np.int64)


def positive_columns(name: str, answers: Sequence[Any], classes: Any, num_samples: int) -> Array:
    """Join answers ``[batch, classes seen]``, one a label, to P(label) ``[batch, labels]``.

    A label that was always 0 (or always 1) in training has one column only.
    """
    columns = []
    for number, answer in enumerate(answers):
        values = np.asarray(answer, dtype=np.float64)
        seen = [0, 1] if classes is None else [int(label) for label in classes[number]]
        if values.shape != (num_samples, len(seen)):
            raise TeacherError(
                f"teachers.{name}: gives outputs of shape {list(values.shape)} for label {number}, "
                f"expected {[num_samples, len(seen)]}"
            )
        column = values[:, seen.index(1)] if 1 in seen else np.zeros(num_samples)
        columns.append(column)
    return np.stack(columns, axis=1)
