"""Patched digits: a square in a corner that tells the label in training, and nothing in test."""

from __future__ import annotations

import dataclasses
from typing import Unpack

import torch
from torch import Tensor

from limbeck.data.bundle import DataBundle, LabelOptions, bundle_from
from limbeck.data.normalize import Normalize
from limbeck.data.registry import register_data
from limbeck.data.seeds import counter_uniform
from limbeck.data.sources.common import common_options
from limbeck.data.sources.digits import STATISTICS as SMALL_STATISTICS
from limbeck.data.sources.digits import digits
from limbeck.data.sources.idx import STATISTICS, load_idx_set
from limbeck.data.splits import Size
from limbeck.errors import RecipeError, unknown

IMAGES = ("mnist", "digits")
PATCH = 31  # stream of random numbers; validation and test use the next two
TRAIN_IMAGES, NUM_TRAIN, VALIDATION = 50_000, 12_000, 5_000
Pair = tuple[Tensor, Tensor]


@register_data("patched-digits")
def patched_digits(
    *,
    images: str = "mnist",
    root: str | None = None,
    download: bool = False,
    agreement: float = 0.95,
    patch: int | None = None,
    patch_seed: int = 0,
    num_train: Size | None = None,
    validation: Size | None = None,
    **common: Unpack[LabelOptions],
) -> DataBundle:
    """Two classes, digits below and above 5, and a white square that a student may read instead.

    The square lies in the upper left corner for "low" and in the upper right one for "high". In
    training it agrees with the label as often as told; in validation and test by lot, so that a
    student that reads it is right half of the time. ``groups`` has 2 * class + corner of every
    sample, ``masks`` where its square is.

    Args:
        images: "mnist": 12,000 training images of the first 50,000, validation from the last
            10,000, the test file; "digits": the bundled 8x8 ones, cut as ``digits`` is.
        root: folder with the idx files or a folder ``mnist``.
        download: whether missing files may be fetched.
        agreement: share of training images whose square agrees with the label, in [0, 1].
        patch: side of the square in pixels; None: 4 of 28, 2 of 8.
        patch_seed: of the squares that are drawn by lot; the same images have the same square
            whatever else is chosen.
        num_train: number or share of images to train on; None: 12,000, or all of "digits".
        validation: likewise; None: 5,000, or 15 % of "digits".
        **common: options of every data set.

    Raises:
        RecipeError: a share outside of [0, 1], another word for ``images``, a square that is none
            or larger than half of an image.
    """
    if images not in IMAGES:
        raise RecipeError("images: " + unknown("images", images, IMAGES))
    if isinstance(agreement, bool) or not 0 <= agreement <= 1:
        raise RecipeError(f"agreement: expected a share in [0, 1], got {agreement}")
    parts, statistics = _small() if images == "digits" else _large(root, download)
    side = parts["train"][0].shape[-1]
    size = max(2, side // 7) if patch is None else patch
    if isinstance(size, bool) or not 1 <= size <= side // 2:
        raise RecipeError(f"patch: expected 1 to {side // 2} pixels, got {patch}")
    shares = {"train": agreement, "validation": 0.5, "test": 0.5}
    whole, groups, masks = {}, {}, {}
    for number, (part, (pixels, which)) in enumerate(parts.items()):
        labels = (which >= 5).long()
        lot = counter_uniform(patch_seed, 0, torch.arange(len(labels)), PATCH + number)
        corners = torch.where(lot < shares[part], labels, 1 - labels)
        masks[part] = squares(corners, side, size)
        whole[part] = (pixels.masked_fill(masks[part][:, None], _white(pixels)), labels)
        groups[part] = 2 * labels + corners
    large = images == "mnist"
    bundle = bundle_from(
        whole["train"],
        whole["validation"],
        whole["test"],
        task="classification",
        class_names=("low", "high"),
        normalization=statistics,
        num_train=NUM_TRAIN if num_train is None and large else num_train,
        name="patched-digits",
        groups=groups,
        group_names=("low, left", "low, right", "high, left", "high, right"),
        masks=masks,
        **common_options(
            {**common, "validation": validation}, validation=VALIDATION if large else None
        ),
    )
    train = bundle.groups["train"]
    agreeing = int((train // 2 == train % 2).sum())
    note = f"the patch agrees with {agreeing:,} of {len(train):,} training labels"
    return dataclasses.replace(bundle, notes=(*bundle.notes, note))


def squares(corners: Tensor, side: int, size: int) -> Tensor:
    """Return where the square is, bool ``[n, side, side]``; corner 0: left, 1: right."""
    both = torch.zeros(2, side, side, dtype=torch.bool)
    both[0, :size, :size] = True
    both[1, :size, side - size :] = True
    return both[corners]


def _white(pixels: Tensor) -> int | float:
    return 255 if pixels.dtype == torch.uint8 else 1.0


def _large(root: str | None, download: bool) -> tuple[dict[str, Pair], Normalize]:
    (pixels, which), test = load_idx_set("mnist", root, download)
    parts = {
        "train": (pixels[:TRAIN_IMAGES], which[:TRAIN_IMAGES]),
        "validation": (pixels[TRAIN_IMAGES:], which[TRAIN_IMAGES:]),
        "test": test,
    }
    return parts, STATISTICS["mnist"]


def _small() -> tuple[dict[str, Pair], Normalize]:
    bundle = digits()
    parts = {}
    for part, view in bundle.splits.items():
        batch = view.fetch(torch.arange(len(view)))
        assert batch.targets is not None
        parts[part] = (batch.inputs, batch.targets)
    return parts, SMALL_STATISTICS
