"""MNIST (LeCun and Cortes) and Fashion-MNIST (Xiao 2017, arXiv 1708.07747): idx files."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from limbeck.data.bundle import Common, DataBundle, bundle_from
from limbeck.data.normalize import Normalize
from limbeck.data.registry import register_data
from limbeck.data.sources.common import common_options
from limbeck.data.sources.files import RemoteFile, find_file, locate
from limbeck.errors import DataError

PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DIGITS = tuple(str(digit) for digit in range(10))
URLS = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist",
    "fashion-mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
}
SHA256 = {
    "mnist": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    "fashion-mnist": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
}
STATISTICS = {
    "mnist": Normalize((0.1307,), (0.3081,)),
    "fashion-mnist": Normalize((0.2860,), (0.3530,)),
}
TORCHVISION = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}
VALIDATION = 5_000


@register_data("mnist")
def mnist(
    *,
    root: str | None = None,
    download: bool = False,
    mirror: str | None = None,
    **common: Unpack[Common],
) -> DataBundle:
    """MNIST: 60,000 + 10,000 grey 28x28 digits; 5,000 of train are cut for validation.

    Args:
        root: folder with the four idx files (.gz or unpacked), or with a folder ``mnist``.
        download: whether missing files may be fetched (11 MB).
        mirror: another address to fetch from.
        **common: options of every data set.
    """
    return _bundle("mnist", DIGITS, root, download, mirror, common)


@register_data("fashion-mnist")
def fashion_mnist(
    *,
    root: str | None = None,
    download: bool = False,
    mirror: str | None = None,
    **common: Unpack[Common],
) -> DataBundle:
    """Fashion-MNIST: 60,000 + 10,000 grey 28x28 images of clothes; options as ``mnist``."""
    return _bundle("fashion-mnist", FASHION_CLASSES, root, download, mirror, common)


def _bundle(
    name: str,
    class_names: tuple[str, ...],
    root: str | None,
    download: bool,
    mirror: str | None,
    common: Common,
) -> DataBundle:
    train, test = load_idx_set(name, root, download, mirror)
    return bundle_from(
        train,
        test=test,
        task="classification",
        class_names=class_names,
        normalization=STATISTICS[name],
        name=name,
        **common_options(common, validation=VALIDATION),
    )


def load_idx_set(
    name: str, root: str | Path | None, download: bool = False, mirror: str | None = None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return ((images, labels) of train, of test): uint8 ``[n, 1, h, w]`` and int64 ``[n]``.

    Raises:
        DataError: files missing or damaged.
    """
    names = [f"{part}-ubyte.gz" for part in PARTS]
    files = [
        RemoteFile(file, URLS[name], digest)
        for file, digest in zip(names, SHA256[name], strict=True)
    ]
    folder = locate(name, files, root, download, mirror, also=[TORCHVISION[name]])
    arrays = [read_idx(find_file(folder, file) or folder / file) for file in names]
    pairs = []
    for images, labels in ((arrays[0], arrays[1]), (arrays[2], arrays[3])):
        if images.dim() != 3 or labels.dim() != 1 or len(images) != len(labels):
            raise DataError(
                f"{folder}: images {list(images.shape)} and labels {list(labels.shape)} do not fit"
            )
        pairs.append((images[:, None], labels.long()))
    return pairs[0], pairs[1]


def read_idx(path: Path) -> Tensor:
    """Return the tensor in an idx file of unsigned bytes (.gz or unpacked).

    Raises:
        DataError: the file is cut short, or is not of this format.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or unreadable: {error}") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DataError(f"{path} is not an idx file of unsigned bytes")
    dimensions = content[3]
    begin = 4 + 4 * dimensions
    whole = len(content) >= begin
    shape = np.frombuffer(content, ">u4", dimensions, 4).tolist() if whole else []
    if not whole or len(content) - begin != math.prod(shape):
        raise DataError(f"{path}: {len(content)} bytes do not fit its header {shape}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=begin).reshape(shape).copy())
