"""Image folders: one folder a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from limbeck.data.batch import IGNORE
from limbeck.data.bundle import Common, DataBundle
from limbeck.data.registry import register_data
from limbeck.data.sources.pictures import Pictures, bundle_of_pictures
from limbeck.errors import DataError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
PART_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
    "unlabelled": ("unlabelled", "unlabeled"),
}


class ImageFiles:
    """Image files of a folder.

    Args:
        paths: the files, in order.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """Return the file's path."""
        return str(self.paths[index])

    def read(self, index: int) -> bytes:
        """Return the file's content.

        Raises:
            DataError: naming the file, where it is gone or may not be read.
        """
        try:
            return self.paths[index].read_bytes()
        except OSError as error:
            raise DataError(f"{self.paths[index]} cannot be read: {error.strerror}") from error


@register_data("images")
def images(
    *,
    root: str,
    size: int | Sequence[int] | None = None,
    mode: str = "RGB",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    test: float | int = 0.2,
    memory: bool | None = None,
    num_workers: int = 0,
    **common: Unpack[Common],
) -> DataBundle:
    """Images in one folder a class, or so within folders ``train``, ``validation``, ``test``.

    Images may lie deeper within a class's folder; hidden files are passed over. Parts without a
    folder are cut from train. Images anywhere in a folder ``unlabelled`` are further train samples
    without labels. Palettes, grey images and alpha become ``mode``. Needs Pillow.

    Args:
        root: the folder.
        size: side in pixels, or (height, width), that images are resized to; None: they all have
            one size.
        mode: "RGB" or "L" (grey).
        mean: statistics of pixels in [0, 1], one a channel; None: (0.5, ...).
        std: likewise; None: (0.25, ...).
        test: number or share of samples for test where there is no such folder.
        memory: whether pixels are held in memory; None: where they take at most 2 GiB and half of
            what is free. What is not held is decoded as it is read: the same bits, slower.
        num_workers: processes that decode ahead, for sets that are not held in memory.
        **common: options of every data set.

    Raises:
        DataError: no folder, a class without images or one that train has not, an image that
            cannot be read or is of another size: each named.
    """
    pictures = Pictures(
        size=size, mode=mode, mean=mean, std=std, memory=memory, num_workers=num_workers
    )
    start = Path(root).expanduser()
    if not start.is_dir():
        raise DataError(f"no folder {start}: expected one with a folder of images for each class")
    folders = {part: _part_folder(start, names) for part, names in PART_FOLDERS.items()}
    top = folders["train"] or start
    classes = _classes(top, [folder for folder in folders.values() if folder is not None])
    parts = {"train": _labelled(top, classes, must=True)}
    for part in ("validation", "test"):
        folder = folders[part]
        if folder is not None:
            _no_other_class(folder, classes)
            parts[part] = _labelled(folder, classes)
    if folders["unlabelled"] is not None:
        files = ImageFiles(_not_empty(_found(folders["unlabelled"]), folders["unlabelled"]))
        parts["unlabelled"] = (files, torch.full((len(files),), IGNORE))
    beside = sum(path.suffix.lower() in ENDINGS for path in top.iterdir())
    return bundle_of_pictures(
        parts,
        pictures,
        test=test,
        common=common,
        name="images",
        notes=[f"{beside} image files beside the class folders are not used"] if beside else [],
        task="classification",
        class_names=classes,
    )


def _classes(top: Path, parts: Sequence[Path]) -> list[str]:
    """Return the names of the class folders, sorted."""
    found = sorted(f.name for f in _subfolders(top) if f not in parts)
    if not found:
        without_train = f" ({', '.join(f.name for f in parts)} but no train)" if parts else ""
        missing = without_train if top not in parts else ""
        raise DataError(
            f"{top} has no folders{missing}: expected one for each class, with images in it"
        )
    if len(found) == 1:
        only = top / found[0]
        inner = len(_subfolders(only))
        raise DataError(
            f"{top} has one class folder only, {found[0]!r}: expected one for each class"
            + (f"; did you mean data.root={only}?" if inner else "")
        )
    return found


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _part_folder(root: Path, names: Sequence[str]) -> Path | None:
    """Return the folder of a part, however its name is capitalised."""
    there = {path.name.lower(): path for path in sorted(_subfolders(root), reverse=True)}
    return next((there[name] for name in names if name in there), None)


def _no_other_class(folder: Path, classes: Sequence[str]) -> None:
    extra = sorted({path.name for path in _subfolders(folder)} - set(classes))
    if extra:
        raise DataError(f"{folder} has a class {extra[0]!r} that train has not")


def _labelled(
    folder: Path, classes: Sequence[str], must: bool = False
) -> tuple[ImageFiles, Tensor]:
    """List the images of a part in a fixed order; ``must``: every class has some."""
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _found(folder / name)
        if must:
            _not_empty(found, folder / name)
        paths += found
        labels += [label] * len(found)
    return ImageFiles(_not_empty(paths, folder)), torch.tensor(labels)


def _found(folder: Path) -> list[Path]:
    """List the image files at any depth, sorted; hidden ones are passed over."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    return sorted(
        path
        for path in files
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )


def _not_empty(paths: list[Path], folder: Path) -> list[Path]:
    if not paths:
        raise DataError(f"no images in {folder}: expected files ending in {', '.join(ENDINGS)}")
    return paths
