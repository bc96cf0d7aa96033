"""Study blocks made of MNIST and Fashion-MNIST: P100, F14, F28, M5, M14.

Train parts come from the first 50,000 images of the train files, validation from the last 10,000,
test from the test files; so nothing that trains a student or a teacher is near what judges them.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from limbeck.data.bundle import DataBundle, LabelOptions, bundle_from
from limbeck.data.normalize import Normalize
from limbeck.data.registry import register_data
from limbeck.data.samples import hash_tensors
from limbeck.data.seeds import counter_integers
from limbeck.data.sources.common import common_options
from limbeck.data.sources.idx import DIGITS, FASHION_CLASSES, STATISTICS, load_idx_set
from limbeck.data.splits import Size
from limbeck.data.view import View
from limbeck.errors import DataError, RecipeError, unknown

TRAIN_IMAGES = 50_000
TEACHER_PAIRS, VALIDATION_PAIRS, TEST_PAIRS = 60_000, 5_000, 20_000
NUM_STUDENT_PAIRS = 20_000  # student pairs come first in the stream, teacher pairs after these
TRAIN_STREAM, VALIDATION_STREAM, TEST_STREAM = 21, 23, 25
Pair = tuple[Tensor, Tensor]


class PairSamples:
    """Two images side by side, joined as they are fetched.

    Args:
        left: uint8 ``[n, 1, h, w]``.
        right: uint8 ``[m, 1, h, w]``.
        pairs: int64 ``[pairs, 2]``: which left with which right image.
        targets: int64 ``[pairs]``.
    """

    def __init__(self, left: Tensor, right: Tensor, pairs: Tensor, targets: Tensor) -> None:
        self.left, self.right, self.pairs, self.targets = left, right, pairs, targets

    def __len__(self) -> int:
        return len(self.pairs)

    def fetch(self, index: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return (uint8 ``[batch, 1, h, 2 w]``, targets) at ``index``."""
        pairs = self.pairs.index_select(0, index)
        halves = [
            self.left.index_select(0, pairs[:, 0]),
            self.right.index_select(0, pairs[:, 1]),
        ]
        return torch.cat(halves, dim=3), self.targets.index_select(0, index)

    def digest(self) -> str:
        """Return the sha256 of both sets, the pairs and the targets."""
        return hash_tensors(self.left, self.right, self.pairs, self.targets)


@register_data("p100")
def p100(
    *,
    root: str | None = None,
    download: bool = False,
    num_train: int | None = None,
    pairs: str = "student",
    pair_seed: int = 0,
    validation: Size = VALIDATION_PAIRS,
    **common: Unpack[LabelOptions],
) -> DataBundle:
    """P100: a digit beside a Fashion item, each 14x14; class 10 * digit + item.

    ``superclasses`` has both hierarchies, "digit" and "item"; ``extra["teacher_pairs"]`` has the
    60,000 pairs of the teacher, none of which the student may draw.

    Args:
        root: folder with the folders ``mnist`` and ``fashion-mnist``.
        download: whether missing files may be fetched.
        num_train: pairs to train on; None: 5,000 of the student's (P100-d, limited by data; with
            20,000 it is P100-c, limited by capacity), or all 60,000 of the teacher's. Smaller
            sets are beginnings of larger ones. With ``imbalance`` the tail is cut from these.
        pairs: "student", or "teacher" to train on the teacher's 60,000 pairs.
        pair_seed: seed of the pairs of all parts; the same for student and teacher.
        validation: number or share of the 5,000 validation pairs.
        **common: options of every data set.

    Raises:
        RecipeError: more pairs than there are, or another word for ``pairs``.
    """
    first = _chosen_pairs(pairs, num_train)
    digits, digits_test = _whole_set("mnist", root, download)
    items, items_test = _whole_set("fashion-mnist", root, download)
    left, right = half_size(digits[0]), half_size(items[0])
    drawn = _distinct_pairs(pair_seed, NUM_STUDENT_PAIRS + TEACHER_PAIRS)
    train = _pair_samples(left, digits[1], right, items[1], drawn)
    last = len(left) - TRAIN_IMAGES
    judged = _draw(pair_seed, VALIDATION_STREAM, VALIDATION_PAIRS, last) + TRAIN_IMAGES
    held_out = _pair_samples(left, digits[1], right, items[1], judged)
    test_left, test_right = half_size(digits_test[0]), half_size(items_test[0])
    test_pairs = _draw(pair_seed, TEST_STREAM, TEST_PAIRS, len(test_left))
    test = _pair_samples(test_left, digits_test[1], test_right, items_test[1], test_pairs)
    bundle = bundle_from(
        PairSamples(left, right, train.pairs[first], train.targets[first]),
        validation=held_out,
        test=test,
        task="classification",
        class_names=[f"{digit} & {item}" for digit in DIGITS for item in FASHION_CLASSES],
        normalization=_statistics(left, right),
        name="p100" if pairs == "student" else "p100 (teacher pairs)",
        superclasses={
            "digit": torch.arange(100) // 10,
            "item": torch.arange(100) % 10,
        },
        **common_options(common, validation=validation),
    )
    bundle.extra["teacher_pairs"] = View.of(train, torch.arange(NUM_STUDENT_PAIRS, len(drawn)))
    return bundle


def _chosen_pairs(pairs: str, num_train: int | None) -> Tensor:
    """Return which of the drawn pairs are trained on: students' first, then the teacher's."""
    if pairs not in ("student", "teacher"):
        raise RecipeError(unknown("pairs", pairs, ["student", "teacher"]))
    student = pairs == "student"
    default, most = (5_000, NUM_STUDENT_PAIRS) if student else (TEACHER_PAIRS, TEACHER_PAIRS)
    count = default if num_train is None else num_train
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
        raise RecipeError(f"num_train={num_train}: expected 1 to {most} pairs")
    return torch.arange(count) + (0 if student else NUM_STUDENT_PAIRS)


@register_data("f14")
def f14(
    *,
    root: str | None = None,
    download: bool = False,
    num_train: int = 10_000,
    validation: Size = 5_000,
    **common: Unpack[LabelOptions],
) -> DataBundle:
    """F14: Fashion-MNIST at 14x14, 10,000 train images, 5,000 validation, 10,000 test.

    Args:
        root: folder with the idx files or a folder ``fashion-mnist``.
        download: whether missing files may be fetched.
        num_train: train images, of the first 50,000.
        validation: number or share of the last 10,000 images of the train file.
        **common: options of every data set.
    """
    return _single("f14", "fashion-mnist", root, download, num_train, validation, common, half=True)


@register_data("f28")
def f28(
    *,
    root: str | None = None,
    download: bool = False,
    num_train: int = 10_000,
    validation: Size = 5_000,
    **common: Unpack[LabelOptions],
) -> DataBundle:
    """F28: as ``f14`` at 28x28."""
    return _single("f28", "fashion-mnist", root, download, num_train, validation, common)


@register_data("m5")
def m5(
    *,
    root: str | None = None,
    download: bool = False,
    num_train: int = 50_000,
    validation: Size = 1.0,
    **common: Unpack[LabelOptions],
) -> DataBundle:
    """M5: MNIST for a 784-800-10 teacher and a 784-5-10 student; options as ``f14``."""
    return _single("m5", "mnist", root, download, num_train, validation, common)


@register_data("m14")
def m14(
    *,
    root: str | None = None,
    download: bool = False,
    num_train: int = 10_000,
    validation: Size = 5_000,
    **common: Unpack[LabelOptions],
) -> DataBundle:
    """M14: MNIST at 14x14, the size of ``f14``; options as there."""
    return _single("m14", "mnist", root, download, num_train, validation, common, half=True)


def _single(
    name: str,
    base: str,
    root: str | None,
    download: bool,
    num_train: int,
    validation: Size,
    common: LabelOptions,
    half: bool = False,
) -> DataBundle:
    (images, labels), (test_images, test_labels) = _whole_set(base, root, download)
    normalization = STATISTICS[base]
    if half:
        images, test_images = half_size(images), half_size(test_images)
        normalization = _statistics(images)
    return bundle_from(
        (images[:TRAIN_IMAGES], labels[:TRAIN_IMAGES]),
        validation=(images[TRAIN_IMAGES:], labels[TRAIN_IMAGES:]),
        test=(test_images, test_labels),
        task="classification",
        class_names=DIGITS if base == "mnist" else FASHION_CLASSES,
        normalization=normalization,
        num_train=num_train,
        name=name,
        **common_options(common, validation=validation),
    )


def _whole_set(name: str, root: str | None, download: bool) -> tuple[Pair, Pair]:
    """Load a set; the blocks count on its published sizes."""
    train, test = load_idx_set(name, root, download)
    if (len(train[0]), len(test[0])) != (60_000, 10_000):
        raise DataError(
            f"{name}: {len(train[0]):,} + {len(test[0]):,} images; expected 60,000 + 10,000"
        )
    return train, test


def half_size(images: Tensor) -> Tensor:
    """Return uint8 images at half the size: means of 2x2 pixels, rounded half up."""
    # in pieces that stay in the processor's cache
    return torch.cat([_half_size(piece) for piece in torch.split(images, 2048)])


def _half_size(images: Tensor) -> Tensor:
    wide = images.to(torch.int16)
    total = wide[..., 0::2, 0::2] + wide[..., 1::2, 0::2]
    total += wide[..., 0::2, 1::2] + wide[..., 1::2, 1::2]
    return ((total + 2) >> 2).to(torch.uint8)


def _statistics(*sets: Tensor) -> Normalize:
    """Mean and standard deviation of the train images' pixels in [0, 1], exact in integers."""
    count = total = squares = 0
    for images in sets:
        for piece in torch.split(images[:TRAIN_IMAGES], 2048):
            wide = piece.to(torch.int32)
            count += piece.numel()
            total += int(wide.sum())
            squares += int(wide.square_().sum())
    mean = total / count
    spread = (squares / count - mean**2) ** 0.5
    return Normalize((round(mean / 255, 4),), (round(spread / 255, 4),))


def _draw(seed: int, stream: int, count: int, high: int) -> Tensor:
    """Draw ``[count, 2]`` positions in [0, high) each, independently."""
    index = torch.arange(count)
    return counter_integers(seed, 0, index, (stream, stream + 1), high).t().contiguous()


def _distinct_pairs(seed: int, count: int) -> Tensor:
    """Draw ``count`` pairs of train images, no pair twice, in the order of drawing."""
    drawn = _draw(seed, TRAIN_STREAM, count + count // 50, TRAIN_IMAGES)
    codes = (drawn[:, 0] * TRAIN_IMAGES + drawn[:, 1]).tolist()
    first = {code: place for place, code in reversed(list(enumerate(codes)))}
    return drawn[torch.tensor(sorted(first.values())[:count])]


def _pair_samples(
    left: Tensor, left_labels: Tensor, right: Tensor, right_labels: Tensor, pairs: Tensor
) -> PairSamples:
    targets = 10 * left_labels[pairs[:, 0]] + right_labels[pairs[:, 1]]
    return PairSamples(left, right, pairs, targets)
