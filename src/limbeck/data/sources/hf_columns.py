"""Which columns of a Hugging Face data set are what, and how they become inputs and targets."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch

from limbeck.data.batch import IGNORE
from limbeck.data.bundle import Common, DataBundle
from limbeck.data.datasets import LABEL_KEYS
from limbeck.data.sources.hf_numbers import bundle_of_numbers, check_numbers
from limbeck.data.sources.hf_pictures import RowImages, is_image
from limbeck.data.sources.hf_targets import hides_labels, read_targets
from limbeck.data.sources.pictures import Pictures, bundle_of_pictures
from limbeck.errors import DataError, unknown

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}


def is_hf(data: Any) -> bool:
    """Whether this is a Hugging Face data set or a mapping of its splits (no import)."""
    datasets = sys.modules.get("datasets")
    if datasets is None:
        return False
    names = ("Dataset", "DatasetDict", "IterableDataset", "IterableDatasetDict")
    return isinstance(data, tuple(getattr(datasets, name) for name in names))


def transforms_itself(data: Any) -> bool:
    """Whether ``set_transform`` decides what an item is, so that its columns say nothing."""
    parts = data.values() if isinstance(data, Mapping) else [data]
    return any(getattr(part, "format", {}).get("type") == "custom" for part in parts)


def from_hf(
    data: Any,
    *,
    train_split: str | None = None,
    validation_split: str | None = None,
    test_split: str | None = None,
    unlabelled_split: str | None = None,
    image: str | None = None,
    columns: str | Sequence[str] | None = None,
    label: str | None = None,
    task: str | None = None,
    num_classes: int | None = None,
    test: float | int = 0.2,
    name: str = "hf-dataset",
    size: int | Sequence[int] | None = None,
    mode: str = "RGB",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    memory: bool | None = None,
    num_workers: int = 0,
    **common: Unpack[Common],
) -> DataBundle:
    """Make a DataBundle of a ``datasets.Dataset`` or ``DatasetDict`` of images or numbers.

    Where ``with_format(..., columns=[...])`` names columns, the others are left alone. The
    arguments are those of the data source ``hf-dataset``.

    Args:
        data: the data set, its splits, or a plain mapping from "train", "validation" and "test".
        train_split: split to train on; None: "train", or the only one.
        validation_split: None: "validation", "val", "valid" or "dev" where there is one.
        test_split: None: "test" where there is one.
        unlabelled_split: further train samples whose labels, if any, are not used.
        image: column of the images; None: the only one.
        columns: columns of numbers or of lists of numbers; None: all but the label where there is
            no image.
        label: column of the label; None: by its name, or the only one that holds classes.
        task: "classification", "multilabel" or "regression"; None: by the label column.
        num_classes: None: counted in train, where the label column does not say.
        test: number or share of samples for test where there is no such split.
        name: for messages.
        size: of images (height, width), or None: they all have one size.
        mode: of images: "RGB" or "L" (grey).
        mean: of pixels in [0, 1], one a channel; None: (0.5, ...).
        std: likewise; None: (0.25, ...).
        memory: whether pixels are held in memory; None: where they fit well.
        num_workers: processes that decode ahead where they are not.
        **common: options of every data set.

    Raises:
        DataError: a stream, no such split or column, text, or rows that do not fit together.
    """
    chosen = {
        "train": train_split,
        "validation": validation_split,
        "test": test_split,
        "unlabelled": unlabelled_split,
    }
    parts, notes = parts_of(data, chosen)
    train = parts["train"]
    label = _label_column(train, label)
    for part in ("validation", "test"):
        if chosen[part] is None and part in parts and hides_labels(parts[part], label):
            del parts[part]
            notes.append(f"the {part} split hides its labels and is not used")
    image = _image_column(train, image, columns)
    used = [image] if image else _number_columns(train, columns, label)
    for part, rows in parts.items():
        wanted = used if part == "unlabelled" else [*used, label]
        for column in wanted:
            if column not in rows.column_names:
                raise DataError(f"the {part} split lacks the column {column!r} that train has")
    left = [c for c in _columns(train) if c not in (*used, label)]
    notes += [f"columns not used: {', '.join(left)}"] if left else []
    labelled = {part: rows for part, rows in parts.items() if part != "unlabelled"}
    task, class_names, targets = read_targets(labelled, label, task)
    more: dict[str, Any] = {"test": test, "common": common, "name": name, "notes": notes}
    more |= {"task": task, "class_names": class_names, "num_classes": num_classes}
    if image is None:
        return bundle_of_numbers(parts, used, targets, **more)
    pictures = Pictures(
        size=size, mode=mode, mean=mean, std=std, memory=memory, num_workers=num_workers
    )
    files = {part: RowImages(rows, image, part) for part, rows in parts.items()}
    if "unlabelled" in files:
        targets["unlabelled"] = torch.full((len(files["unlabelled"]),), IGNORE)
    return bundle_of_pictures(
        {part: (rows, targets[part]) for part, rows in files.items()}, pictures, **more
    )


def parts_of(data: Any, chosen: Mapping[str, str | None]) -> tuple[dict[str, Any], list[str]]:
    """Return the data set of each part, and a note on splits that are not used.

    Args:
        data: a data set, or a mapping of splits.
        chosen: the split of each part; None: by its name, where there is one.

    Raises:
        DataError: a stream, an empty part, or no such split.
    """
    splits = dict(data) if isinstance(data, Mapping) else {"train": data}
    for rows in splits.values():
        if not hasattr(rows, "column_names") or not hasattr(rows, "__len__"):
            raise DataError(
                "a streamed data set has neither length nor order to go back to: load it without "
                "streaming=True"
            )
    parts, taken = {}, set()
    for part, name in chosen.items():
        found = _split(part, name, splits)
        if found is not None:
            parts[part] = splits[found]
            taken.add(found)
    if "train" not in parts:
        raise DataError(
            f"no split named train (splits: {', '.join(splits)}): say which (data.train_split=)"
        )
    for part, rows in parts.items():
        if len(rows) == 0:
            raise DataError(f"the {part} split is empty: expected at least one sample")
    left = [name for name in splits if name not in taken]
    return parts, [f"splits not used: {', '.join(left)}"] if left else []


def _split(part: str, name: str | None, splits: Mapping[str, Any]) -> str | None:
    if name is not None:
        if name not in splits:
            raise DataError(unknown("split", name, splits))
        return name
    found = next((one for one in SPLITS.get(part, ()) if one in splits), None)
    if found is None and part == "train" and len(splits) == 1:
        return next(iter(splits))
    return found


def _columns(rows: Any) -> list[str]:
    """Return the columns that count: those of the format where one is set."""
    return list(rows.format["columns"] or rows.column_names)


def _label_column(rows: Any, label: str | None) -> str:
    names = _columns(rows)
    if label is not None:
        if label not in rows.column_names:
            raise DataError(unknown("column", label, rows.column_names))
        return label
    found = [key for key in LABEL_KEYS if key in names][:1] or [
        name for name in names if type(rows.features[name]).__name__ == "ClassLabel"
    ]
    if len(found) != 1:
        which = f"several that could be it ({', '.join(found)})" if found else "none"
        raise DataError(
            f"expected one label column, found {which}: call it 'label', or say data.label= "
            f"(columns: {', '.join(names)})"
        )
    return found[0]


def _image_column(rows: Any, image: str | None, columns: str | Sequence[str] | None) -> str | None:
    if image is not None and columns is not None:
        raise DataError("expected either data.image= or data.columns=, got both")
    if image is not None:
        if image not in rows.column_names:
            raise DataError(unknown("column", image, rows.column_names))
        if not is_image(rows.features[image], loose=True):
            raise DataError(
                f"column {image!r} holds no images: it is of type {rows.features[image]}"
            )
        return image
    found = [name for name in _columns(rows) if is_image(rows.features[name])]
    if columns is not None or not found:
        return None
    if len(found) > 1:
        raise DataError(f"several columns hold images ({', '.join(found)}): say data.image=")
    return found[0]


def _number_columns(rows: Any, columns: str | Sequence[str] | None, label: str) -> list[str]:
    if columns is None:
        names = [name for name in _columns(rows) if name != label]
    else:
        names = [columns] if isinstance(columns, str) else list(columns)
    for name in names:
        if name not in rows.column_names:
            raise DataError(unknown("column", name, rows.column_names))
        if name == label:
            raise DataError(f"columns: {name!r} is the label")
        check_numbers(name, rows.features[name])
    if not names:
        raise DataError(f"no column beside the label {label!r}: expected images or numbers")
    return names
