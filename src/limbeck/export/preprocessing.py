"""preprocessing.json: what an exported model takes and what it gives, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from limbeck.export.served import INPUT, OUTPUT, is_pixels
from limbeck.export.subject import Subject

FILE = "preprocessing.json"


def preprocessing(subject: Subject) -> dict[str, Any]:
    """Return the contract of the exported model for programs: inputs, normalisation, classes."""
    stats, inputs = subject.data.normalization, subject.checked[0].inputs
    named = inputs if isinstance(inputs, Mapping) else {INPUT: inputs}
    normalised = stats is not None and not subject.baked
    encoding = subject.data.encoding
    return {
        "format": 1,
        "inputs": [
            {"name": name, "dtype": _kind(value), "shape": ["batch", *value.shape[1:]]}
            for name, value in named.items()
        ],
        "takes": takes(subject),
        **({"columns": [dict(one) for one in encoding]} if encoding else {}),
        "normalisation": None
        if stats is None
        else {
            "mean": list(stats.mean),
            "std": list(stats.std),
            "formula": "(x - mean) / std, for x in [0, 1]",
            "in_the_model": not normalised,
        },
        "output": {"name": OUTPUT, "shape": ["batch", subject.data.num_outputs]},
        "task": subject.data.task,
        "class_names": list(subject.data.class_names),
    }


def takes(subject: Subject) -> str:
    """Return in words what the exported model takes."""
    inputs = subject.checked[0].inputs
    if isinstance(inputs, Mapping):
        return "inputs by name, as the data set gives them"
    if not subject.takes_numbers:
        return "numbers of tokens or categories, as the data set gives them"
    if subject.baked:
        return "uint8 pixels in 0..255" if _kind(inputs) == "uint8" else "raw values in [0, 1]"
    if subject.data.normalization is not None:
        return "values in [0, 1], then normalised: (x - mean) / std"
    if is_pixels(subject.data):
        return "pixels scaled to [0, 1]"
    if subject.data.encoding:
        return "rows of a table, each column made numbers as `columns` in preprocessing.json says"
    return "values as the data set gives them"


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
