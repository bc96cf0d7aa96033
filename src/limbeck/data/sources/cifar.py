"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from their binary version; nothing is unpickled."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from limbeck.data.bundle import Common, DataBundle, bundle_from
from limbeck.data.normalize import Normalize
from limbeck.data.registry import register_data
from limbeck.data.sources.common import common_options
from limbeck.data.sources.files import RemoteFile, locate, roots
from limbeck.errors import DataError

URL = "https://www.cs.toronto.edu/~kriz"
# checksums as the sets' own page states them
ARCHIVES = {
    "cifar10": RemoteFile("cifar-10-binary.tar.gz", URL, "c32a1d4ab5d03f1284b67883e8d87530", "md5"),
    "cifar100": RemoteFile(
        "cifar-100-binary.tar.gz", URL, "03b5dce01913d631647c71ecec9e9cb8", "md5"
    ),
}
FOLDERS = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}
TRAIN = {"cifar10": [f"data_batch_{k}.bin" for k in range(1, 6)], "cifar100": ["train.bin"]}
TEST = {"cifar10": "test_batch.bin", "cifar100": "test.bin"}
CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
STATISTICS = {
    "cifar10": Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Normalize((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
PIXELS = 3 * 32 * 32
VALIDATION = 5_000


@register_data("cifar10")
def cifar10(
    *,
    root: str | None = None,
    download: bool = False,
    mirror: str | None = None,
    **common: Unpack[Common],
) -> DataBundle:
    """CIFAR-10: 50,000 + 10,000 colour 32x32 images; 5,000 of train are cut for validation.

    Args:
        root: folder with ``cifar-10-binary.tar.gz`` or its unpacked ``.bin`` files.
        download: whether the archive may be fetched (162 MB).
        mirror: another address to fetch from.
        **common: options of every data set.
    """
    train, test, _ = load_cifar("cifar10", root, download, mirror)
    return bundle_from(
        train,
        test=test,
        task="classification",
        class_names=CLASSES,
        normalization=STATISTICS["cifar10"],
        name="cifar10",
        **common_options(common, validation=VALIDATION),
    )


@register_data("cifar100")
def cifar100(
    *,
    root: str | None = None,
    download: bool = False,
    mirror: str | None = None,
    **common: Unpack[Common],
) -> DataBundle:
    """CIFAR-100, options as ``cifar10``; its 20 superclasses are ``superclasses["coarse"]``."""
    train, test, coarse = load_cifar("cifar100", root, download, mirror)
    return bundle_from(
        train,
        test=test,
        task="classification",
        num_classes=100,
        normalization=STATISTICS["cifar100"],
        name="cifar100",
        superclasses={"coarse": coarse},
        **common_options(common, validation=VALIDATION),
    )


def load_cifar(
    name: str, root: str | Path | None, download: bool = False, mirror: str | None = None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
    """Return train and test (uint8 ``[n, 3, 32, 32]``, int64 ``[n]``), and coarse labels.

    The last is int64 ``[100]``, the superclass of each class (empty for CIFAR-10).

    Raises:
        DataError: files missing or damaged.
    """
    contents = _contents(name, root, download, mirror)
    header = 2 if name == "cifar100" else 1
    train = [_records(contents[file], header, file) for file in TRAIN[name]]
    labels, images = torch.cat([row for row, _ in train]), torch.cat([x for _, x in train])
    test_labels, test_images = _records(contents[TEST[name]], header, TEST[name])
    coarse = torch.empty(0, dtype=torch.int64)
    if header == 2:
        coarse = torch.zeros(256, dtype=torch.int64)  # a damaged label is named further on
        coarse[labels[:, 1]] = labels[:, 0]
        coarse = coarse[:100]
    return (images, labels[:, -1]), (test_images, test_labels[:, -1]), coarse


def _records(content: bytes, header: int, file: str) -> tuple[Tensor, Tensor]:
    """Read records of label bytes and 3,072 pixels: (int64 ``[n, header]``, uint8 images)."""
    size = header + PIXELS
    if not content or len(content) % size:
        raise DataError(f"{file}: {len(content)} bytes are not whole records of {size}")
    rows = torch.from_numpy(np.frombuffer(content, np.uint8).reshape(-1, size).copy())
    return rows[:, :header].long(), rows[:, header:].reshape(-1, 3, 32, 32)


def _contents(
    name: str, root: str | Path | None, download: bool, mirror: str | None
) -> dict[str, bytes]:
    """Return the bytes of each binary file, from a folder or from the archive."""
    names = [*TRAIN[name], TEST[name]]
    for start in roots(root):
        for folder in (start, start / name, start / FOLDERS[name], start / name / FOLDERS[name]):
            if all((folder / file).is_file() for file in names):
                return {file: (folder / file).read_bytes() for file in names}
    archive = ARCHIVES[name]
    return _unpack(locate(name, [archive], root, download, mirror) / archive.name, names)


def _unpack(archive: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Read the named members of an archive into memory; nothing is written."""
    found: dict[str, bytes] = {}
    try:
        # locate() also accepts an unpacked .tar
        with tarfile.open(archive if archive.is_file() else archive.with_suffix("")) as tar:
            for member in tar:
                file = tar.extractfile(member) if Path(member.name).name in names else None
                if file is not None:
                    found[Path(member.name).name] = file.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{archive} is damaged or unreadable: {error}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{archive} lacks {', '.join(missing)}: is it the binary version?")
    return found
