"""Image folders: one folder a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from limbeck.data.batch import IGNORE
from limbeck.data.bundle import Common, DataBundle, bundle_from
from limbeck.data.normalize import Normalize
from limbeck.data.registry import register_data
from limbeck.data.sources.common import common_options, require
from limbeck.errors import DataError, RecipeError, unknown

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
PART_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
    "unlabelled": ("unlabelled", "unlabeled"),
}
MEMORY = 2 << 30  # bytes of pixels that are held decoded; larger sets are decoded as they are read


class ImageFiles:
    """A torch-style data set of image files, decoded and resized as they are asked for.

    Args:
        paths: the files.
        labels: class of each.
        size: (height, width) that images are resized to (bilinear).
        mode: "RGB" or "L" (grey).
    """

    def __init__(
        self, paths: Sequence[Path], labels: Sequence[int], size: tuple[int, int], mode: str
    ) -> None:
        self.paths, self.targets, self.size, self.mode = list(paths), list(labels), size, mode

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return (uint8 ``[channels, height, width]``, class).

        Raises:
            DataError: the file is no image that can be read.
        """
        from PIL import Image

        path = self.paths[index]
        try:
            with Image.open(path) as image:
                small = image.convert(self.mode).resize(self.size[::-1], Image.Resampling.BILINEAR)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path} cannot be read as an image: {error}") from error
        pixels = torch.from_numpy(np.array(small))
        pixels = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()
        return pixels, self.targets[index]

    def in_memory(self) -> tuple[Tensor, Tensor]:
        """Decode all: (uint8 ``[n, channels, height, width]``, int64 ``[n]``)."""
        pixels = torch.empty(len(self), 1 if self.mode == "L" else 3, *self.size, dtype=torch.uint8)
        for index in range(len(self)):
            pixels[index] = self[index][0]
        return pixels, torch.tensor(self.targets)


@register_data("images")
def images(
    *,
    root: str,
    size: int | Sequence[int] = 32,
    mode: str = "RGB",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    test: float | int = 0.2,
    num_workers: int = 0,
    **common: Unpack[Common],
) -> DataBundle:
    """Images in one folder a class, or so within folders ``train``, ``validation``, ``test``.

    Parts without a folder are cut from train. Images anywhere in a folder ``unlabelled`` are
    further train samples without labels. Up to 2 GiB of pixels are held in memory; a larger set is
    decoded as it is read. Needs Pillow.

    Args:
        root: the folder.
        size: side in pixels, or (height, width), that images are resized to.
        mode: "RGB" or "L" (grey).
        mean: statistics of pixels in [0, 1], one a channel; None: (0.5, ...).
        std: likewise; None: (0.25, ...).
        test: number or share of samples for test where there is no such folder.
        num_workers: processes that decode ahead, for sets that are not held in memory.
        **common: options of every data set.
    """
    if mode not in ("RGB", "L"):
        raise RecipeError(unknown("mode", mode, ["RGB", "L"]))
    shape = _shape(size)
    require("PIL", "Pillow", "vision")
    start = Path(root).expanduser()
    if not start.is_dir():
        raise DataError(f"no folder {start}: expected one with a folder of images for each class")
    folders = {part: _part_folder(start, names) for part, names in PART_FOLDERS.items()}
    top = folders["train"] or start
    taken = {folder for folder in folders.values() if folder is not None}
    classes = sorted(f.name for f in _subfolders(top) if f not in taken)
    if not classes:
        raise DataError(f"{top} has no folders: expected one for each class, with images in it")
    parts: dict[str, Any] = {"train": _files(top, classes, shape, mode)}
    for part in ("validation", "test"):
        folder = folders[part]
        if folder is not None:
            parts[part] = _files(folder, classes, shape, mode)
    if folders["unlabelled"] is not None:
        parts["unlabelled"] = _unlabelled(folders["unlabelled"], shape, mode)
    total = sum(len(files) for files in parts.values())
    channels = 1 if mode == "L" else 3
    if total * channels * shape[0] * shape[1] <= MEMORY:
        parts = {part: files.in_memory() for part, files in parts.items()}
    return bundle_from(
        **parts,
        task="classification",
        class_names=classes,
        normalization=Normalize(tuple(mean or (0.5,) * channels), tuple(std or (0.25,) * channels)),
        test_size=None if "test" in parts else test,
        num_workers=num_workers,
        name="images",
        **common_options(common),
    )


def _shape(size: int | Sequence[int]) -> tuple[int, int]:
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise RecipeError(f"size: expected pixels, or (height, width) in pixels, got {size!r}")
    return sides[0], sides[1]


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _part_folder(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _files(folder: Path, classes: Sequence[str], size: tuple[int, int], mode: str) -> ImageFiles:
    """List the images of a part in a fixed order."""
    extra = sorted({path.name for path in _subfolders(folder)} - set(classes))
    if extra and folder.name in {name for names in PART_FOLDERS.values() for name in names}:
        raise DataError(f"{folder} has a class {extra[0]!r} that train has not")
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = _found(folder / name)
        paths += found
        labels += [label] * len(found)
    return ImageFiles(_not_empty(paths, folder), labels, size, mode)


def _unlabelled(folder: Path, size: tuple[int, int], mode: str) -> ImageFiles:
    paths = _not_empty(_found(folder), folder)
    return ImageFiles(paths, [IGNORE] * len(paths), size, mode)


def _found(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    return sorted(path for path in files if path.is_file())


def _not_empty(paths: list[Path], folder: Path) -> list[Path]:
    if not paths:
        raise DataError(f"no images in {folder}: expected files ending in {', '.join(ENDINGS)}")
    return paths
