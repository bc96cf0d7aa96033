"""Columns of numbers of Hugging Face data sets as inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.data.bundle import DataBundle, bundle_from
from limbeck.data.check import canonical_targets, count_outputs
from limbeck.data.encoded import room_for
from limbeck.data.sources.common import after_cuts, common_options, of_cuts
from limbeck.data.splits import Size, Splits, make_splits
from limbeck.errors import DataError

CHUNK = 1000  # rows that are made arrays of at a time


def check_numbers(name: str, feature: Any) -> None:
    """Refuse a column that holds neither numbers nor lists of numbers.

    Raises:
        DataError: naming the column, and the way in for text.
    """
    kind = _leaf(feature)
    if "string" in kind:
        raise DataError(
            f"column {name!r} holds text: data: {{name: text}} reads text; a table with categories "
            "is data: {name: table}; data.columns= names the columns of numbers"
        )
    if not kind.startswith(("int", "uint", "float", "bool", "double")):
        raise DataError(
            f"column {name!r} is of type {type(feature).__name__}: expected images, numbers or "
            "lists of numbers"
        )


def bundle_of_numbers(
    parts: Mapping[str, Any],
    columns: Sequence[str],
    targets: Mapping[str, Tensor],
    *,
    test: Size,
    common: Mapping[str, Any],
    name: str,
    notes: Sequence[str],
    task: str,
    class_names: Sequence[str],
    num_classes: int | None,
) -> DataBundle:
    """Make a DataBundle of columns of numbers.

    Args:
        parts: data set of each part, "train" among them.
        columns: those that are inputs.
        targets: of each part but "unlabelled".
        test: number or share of samples for test where there is no such part.
        common: options of every data set.
        name: for messages.
        notes: what was decided before.
        task: the task.
        class_names: one a class; () where there are none.
        num_classes: None: counted in train.
    """
    need = sum(len(rows) * _row_bytes(rows, columns) for rows in parts.values())
    notes = [*notes, room_for(need, "numbers", "take fewer rows or data.columns=")]
    read = {
        part: {column: _tensor(rows, column, part) for column in columns}
        for part, rows in parts.items()
    }
    options: dict[str, Any] = common_options(common)
    scalars = all(read["train"][column].dim() == 1 for column in columns)
    inputs: dict[str, Any]
    if scalars:
        inputs = {
            part: torch.stack([rows[c].float() for c in columns], 1) for part, rows in read.items()
        }
        splits = _splits(targets, task, num_classes or len(class_names), test, options)
        inputs = _standardised(inputs, splits.train)
        notes = [*notes, "columns standardised by the train part"]
        cut = [part for part in ("validation", "test") if part not in parts]
        notes += [f"{' and '.join(cut)} cut from train"] if cut else []
        options = {"splits": splits, **after_cuts(options)}
    elif len(columns) == 1:
        inputs = {part: rows[columns[0]] for part, rows in read.items()}
    else:
        inputs = dict(read)
    options |= {part: (inputs[part], targets[part]) for part in targets}
    if "unlabelled" in parts:
        options["unlabelled"] = (inputs["unlabelled"],)
    return bundle_from(
        task=task,
        class_names=class_names,
        num_classes=num_classes,
        test_size=None if "test" in parts or scalars else test,
        feature_names=tuple(columns) if scalars else (),
        name=name,
        notes=tuple(notes),
        **options,
    )


def _splits(
    targets: Mapping[str, Tensor], task: str, classes: int, test: Size, options: Mapping[str, Any]
) -> Splits:
    """Cut the parts before anything is fitted on train."""
    outputs = classes or count_outputs(targets["train"], task)
    known = {p: canonical_targets(rows, task, outputs, p) for p, rows in targets.items()}
    return make_splits(
        known["train"],
        validation=options["validation_size"],
        test=None if "test" in known else test,
        validation_targets=known.get("validation"),
        test_targets=known.get("test"),
        **of_cuts(options),
    )


def _standardised(inputs: Mapping[str, Tensor], train: Tensor) -> dict[str, Tensor]:
    """Give every column mean 0 and deviation 1 over the train part; a constant one becomes 0."""
    rows = inputs["train"].index_select(0, train).double()
    mean, std = rows.mean(0), rows.std(0, correction=0)
    std = torch.where(std > 0, std, torch.ones_like(std))
    return {part: ((x.double() - mean) / std).float() for part, x in inputs.items()}


def _row_bytes(rows: Any, columns: Sequence[str]) -> int:
    """Return the memory of one sample, by the first one."""
    return sum(_tensor(rows.select([0]), column, "train").nbytes for column in columns if len(rows))


def _tensor(rows: Any, column: str, part: str) -> Tensor:
    """Read a column: ``[rows, ...]``, integers and uint8 as they are, real numbers as float32."""
    kind = _leaf(rows.features[column])
    dtype: Any = {"uint8": np.uint8, "bool": np.float32}.get(kind, np.int64)
    if kind.startswith(("float", "double")):
        dtype = np.float32
    one = rows.with_format("numpy", columns=[column])
    chunks = []
    for start in range(0, len(one), CHUNK):
        values = one[start : start + CHUNK][column]
        chunks.append(_array(values, dtype, column, part, start))
        if chunks[0].shape[1:] != chunks[-1].shape[1:]:
            raise _ragged(column, part, start)
    return torch.from_numpy(np.concatenate(chunks))


def _array(values: Any, dtype: Any, column: str, part: str, start: int) -> np.ndarray[Any, Any]:
    array = np.asarray(values)
    if array.dtype == object:
        for row, value in enumerate(array):
            if value is None:
                raise DataError(f"{part}, sample {start + row}: column {column!r} has no value")
        shapes = [np.shape(value) for value in array]
        odd = next((row for row, shape in enumerate(shapes) if shape != shapes[0]), 0)
        raise _ragged(column, part, start + odd)
    if array.dtype.kind == "f":
        missing = np.isnan(array.reshape(len(array), -1)).any(1)
        if missing.any():
            row = start + int(missing.argmax())
            raise DataError(f"{part}, sample {row}: column {column!r} has no value")
    return array.astype(dtype)


def _ragged(column: str, part: str, row: int) -> DataError:
    return DataError(
        f"{part}, sample {row}: column {column!r} has lists of different lengths: pad or cut them "
        "to one length"
    )


def _leaf(feature: Any) -> str:
    """Return the type of the numbers inside of lists, as text."""
    while True:
        inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
        if inner is None:
            return str(getattr(feature, "dtype", type(feature).__name__))
        feature = inner
