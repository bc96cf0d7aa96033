"""The same hundred scans of digits behind every door."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

COUNT = 100


@cache
def scans() -> tuple[Any, Any]:
    """(uint8 ``[100, 8, 8]``, classes): the first hundred of scikit-learn's digits."""
    pixels, labels = load_digits(return_X_y=True)
    return (pixels[:COUNT] * 15).astype(np.uint8).reshape(-1, 8, 8), labels[:COUNT]


def png(pixels: Any) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def write_shards(folder: Path, **changes: Any) -> str:
    """Shards of 40 samples by ``webdataset``'s own writer; return the range that names them."""
    import webdataset

    pixels, labels = scans()
    folder.mkdir(parents=True, exist_ok=True)
    with webdataset.ShardWriter(str(folder / "train-%06d.tar"), maxcount=40, verbose=0) as writer:
        for row in range(COUNT):
            sample = {"__key__": f"{row:04}", "png": png(pixels[row]), "cls": int(labels[row])}
            writer.write(sample | changes)
    return str(folder / "train-{000000..000002}.tar")


def hf_digits(**more: Any) -> Any:
    """A ``datasets.Dataset`` of an image column and a class column."""
    import datasets

    pixels, labels = scans()
    features = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=[f"digit {k}" for k in range(10)]),
    }
    rows = {"image": [{"bytes": png(p), "path": None} for p in pixels], "label": labels.tolist()}
    return datasets.Dataset.from_dict(
        rows | more, datasets.Features(features) if not more else None
    )


def write_folders(folder: Path) -> str:
    """One folder a class; files are sorted within it."""
    pixels, labels = scans()
    for row in range(COUNT):
        place = folder / f"digit {labels[row]}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{row:04}.png").write_bytes(png(pixels[row]))
    return str(folder)
