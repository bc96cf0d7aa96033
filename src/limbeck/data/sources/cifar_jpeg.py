"""CIFAR-10 re-encoded as JPEG (lossy): figures on it are not those of CIFAR-10."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from limbeck.data.bundle import Common, DataBundle, bundle_from
from limbeck.data.normalize import Normalize
from limbeck.data.registry import register_data
from limbeck.data.sources.cifar import VALIDATION
from limbeck.data.sources.common import after_cuts, common_options, of_cuts, require
from limbeck.data.sources.files import roots
from limbeck.data.splits import Splits, make_splits
from limbeck.errors import DataError

FILE = "cifar10_jpeg.npz"
ARRAYS = (
    *(f"{part}_{kind}" for part in ("train", "test") for kind in ("jpeg", "offsets", "labels")),
    "class_names",
)
STATISTICS = Normalize((0.4913, 0.4821, 0.4465), (0.2452, 0.2428, 0.2606))


@register_data("cifar10-jpeg")
def cifar10_jpeg(*, root: str | None = None, **common: Unpack[Common]) -> DataBundle:
    """CIFAR-10 (JPEG): 50,000 + 10,000 images of an npz of JPEG bytes.

    Only the images that are used are decoded (a tenth of a millisecond each); 5,000 of train are
    cut for validation. Needs Pillow.

    Args:
        root: the npz, or a folder that holds it or a folder ``cifar10-jpeg``.
        **common: options of every data set.
    """
    require("PIL", "Pillow", "vision")
    arrays = _read(_find(root))
    train_labels = torch.from_numpy(arrays["train_labels"].astype(np.int64))
    test_labels = torch.from_numpy(arrays["test_labels"].astype(np.int64))
    options = common_options(common, validation=VALIDATION)
    splits = make_splits(
        train_labels,
        validation=options["validation_size"],
        test_targets=test_labels,
        **of_cuts(options),
    )
    # the base set is what is used, in file order; positions are those within it
    used = torch.cat([splits.train, splits.validation]).sort().values
    place = torch.zeros(len(train_labels), dtype=torch.int64)
    place[used] = torch.arange(len(used))
    splits = Splits(
        place[splits.train],
        place[splits.validation],
        splits.test,
        place[splits.unlabelled],
        splits.bases,
        splits.seed,
        splits.notes,
    )
    return bundle_from(
        (_decode(arrays, "train", used), train_labels[used]),
        test=(_decode(arrays, "test", splits.test), test_labels),
        task="classification",
        class_names=[str(name) for name in arrays["class_names"]],
        normalization=STATISTICS,
        splits=splits,
        **after_cuts(options),
        name="cifar10-jpeg",
        notes=("JPEG copy of CIFAR-10: not comparable with figures on the original pixels",),
    )


def _find(root: str | None) -> Path:
    path = next(iter(roots(root)), Path())
    for candidate in (path, path / FILE, path / "cifar10-jpeg" / FILE):
        if candidate.is_file():
            return candidate
    raise DataError(f"{FILE} not found in {path}: pass data.root=FOLDER (there is no download)")


def _read(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read the arrays once each: an npz decompresses at every access."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in ARRAYS}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged or not an npz: {error}") from error
    except (KeyError, AttributeError) as error:  # an npz of other things; a bare npy
        raise DataError(f"{path} does not hold the arrays {', '.join(ARRAYS)}") from error


def _decode(arrays: dict[str, np.ndarray[Any, Any]], part: str, index: Tensor) -> Tensor:
    """Decode images to uint8 ``[n, 3, 32, 32]``."""
    from PIL import Image

    stream, offsets = arrays[f"{part}_jpeg"], arrays[f"{part}_offsets"]
    pixels = np.empty((len(index), 32, 32, 3), np.uint8)
    for row, place in enumerate(index.tolist()):
        content = stream[offsets[place] : offsets[place + 1]].tobytes()
        try:
            pixels[row] = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{FILE}: {part} image {place} cannot be read: {error}") from error
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
