"""Train, validation and test: always made, recorded, never overlapping."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from limbeck.data.batch import IGNORE, has_label
from limbeck.data.imbalance import class_sizes, read_imbalance
from limbeck.data.seeds import counter_bits
from limbeck.errors import DataError, RecipeError

Size = int | float
PARTS = ("train", "validation", "test")
VALIDATION, TEST, TRAIN, LABELS = 11, 12, 13, 14  # streams of random numbers


@dataclass(frozen=True, eq=False)
class Splits:
    """Which positions belong to which part, and proof that the parts are disjoint.

    Attributes:
        train: int64, sorted positions in the train part's base set.
        validation: likewise.
        test: likewise.
        unlabelled: positions of the train part whose labels were dropped.
        bases: the base set of each part: ("train", "train", "test") is a set with a test file.
        seed: what the cuts were drawn with.
        notes: what a person should know of the cuts.

    Raises:
        DataError: a part is empty, or two parts of one base set share a sample.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    unlabelled: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    bases: tuple[str, str, str] = ("train", "train", "train")
    seed: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in PARTS:
            if len(self[name]) == 0:
                raise DataError(f"the {name} split is empty: give more data or a larger share")
        for one, two in (("train", "validation"), ("train", "test"), ("validation", "test")):
            if self.base(one) == self.base(two):
                shared = self[one][torch.isin(self[one], self[two])]
                if len(shared):
                    raise DataError(
                        f"{one} and {two} share {len(shared)} samples (position {int(shared[0])})"
                    )
        if len(self.unlabelled) and not bool(torch.isin(self.unlabelled, self.train).all()):
            raise DataError("unlabelled samples must be part of train")

    def __getitem__(self, part: str) -> Tensor:
        positions: Tensor = getattr(self, part)
        return positions

    def base(self, part: str) -> str:
        """Return the name of the base set of a part."""
        return self.bases[PARTS.index(part)]

    def digest(self) -> str:
        """Return the sha256 over base sets and positions."""
        digest = hashlib.sha256("|".join(self.bases).encode())
        for positions in (self.train, self.validation, self.test, self.unlabelled):
            digest.update(f"|{len(positions)}|".encode())
            digest.update(positions.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """Return what a run records of its splits."""
        sizes = {name: len(self[name]) for name in PARTS}
        return {
            **sizes,
            "unlabelled": len(self.unlabelled),
            "bases": list(self.bases),
            "seed": self.seed,
            "digest": self.digest(),
        }


def make_splits(
    targets: Tensor,
    *,
    validation: Size | None = None,
    test: Size | None = None,
    validation_targets: Tensor | None = None,
    test_targets: Tensor | None = None,
    num_train: Size | None = None,
    imbalance: float | Mapping[str, Any] | None = None,
    label_fraction: float | None = None,
    labels_per_class: int | None = None,
    seed: int = 0,
    test_seed: int | None = None,
    stratify: bool = True,
) -> Splits:
    """Cut a set into train, validation and test.

    Validation and test are drawn from labelled samples only; class shares are kept where targets
    are classes.

    Args:
        targets: canonical targets of the train file ``[n]`` or ``[n, outputs]``.
        validation: how many (int) or which share (float) to draw for validation: of the
            validation file where there is one (None: all of it), else of train (None: 0.1).
        test: likewise (None without a file: 0.2).
        validation_targets: targets of a separate validation file.
        test_targets: targets of a separate test file.
        num_train: how many, or which share, of what remains to train on; None: all.
        imbalance: how many times as large as the rarest class the commonest is to be in train, or
            the fields of `limbeck.data.imbalance.Imbalance`; ``num_train`` is then the labelled
            samples in all (None: as many as there can be), and unlabelled ones stay. None: as is.
        label_fraction: share of the train part that keeps its labels, in [0, 1].
        labels_per_class: number of train samples a class that keep their labels.
        seed: seed of the cuts.
        test_seed: seed of the test cut, where that is to stay as ``seed`` varies.
        stratify: whether to keep class shares.

    Raises:
        DataError: more samples asked for than there are.
        RecipeError: a share outside of [0, 1], both ways of dropping labels, or a long tail that
            has no such shape or leaves a class empty.
    """
    rest = torch.arange(len(targets))
    parts: dict[str, Tensor] = {}
    own = {"test": test_targets, "validation": validation_targets}
    seeds = {"test": seed if test_seed is None else test_seed, "validation": seed}
    sizes = {
        "test": 0.2 if test is None else test,
        "validation": 0.1 if validation is None else validation,
    }
    for part, stream in (("test", TEST), ("validation", VALIDATION)):
        chosen, given = sizes[part], own[part]
        if given is None:
            labelled = rest[has_label(targets[rest])]
            parts[part] = draw(
                targets, chosen, labelled, seeds[part], stream, stratify=stratify, what=part
            )
            rest = rest[~torch.isin(rest, parts[part])]
        elif (test if part == "test" else validation) is None:
            parts[part] = torch.arange(len(given))
        else:
            everything = torch.arange(len(given))
            parts[part] = draw(
                given, chosen, everything, seeds[part], stream, stratify=stratify, what=part
            )
    notes: tuple[str, ...] = ()
    if imbalance is not None:
        rest, note = _long_tail(targets, rest, imbalance, num_train, seed)
        notes = (note,)
    elif num_train is not None:
        rest = draw(targets, num_train, rest, seed, TRAIN, stratify=stratify, what="train")
    dropped = labels_to_drop(targets, rest, label_fraction, labels_per_class, seed, stratify)
    names = [part if own[part] is not None else "train" for part in ("validation", "test")]
    bases = ("train", names[0], names[1])
    return Splits(rest, parts["validation"], parts["test"], dropped, bases, seed, notes)


def _long_tail(
    targets: Tensor,
    among: Tensor,
    imbalance: float | Mapping[str, Any],
    size: Size | None,
    seed: int,
) -> tuple[Tensor, str]:
    """Return sorted positions whose classes have a long tail, and what to say of it.

    A smaller class is the beginning of a larger one of the same seed.
    """
    tail = read_imbalance(imbalance)
    if targets.is_floating_point() or targets.dim() > 1:
        raise RecipeError("data.imbalance: needs one class a sample; these targets have none")
    labelled = among[has_label(targets[among])]
    there = torch.bincount(targets[labelled], minlength=max(int(targets.max()) + 1, 0))
    total = None if size is None else _count(size, len(labelled), "train")
    sizes = class_sizes(there, tail, total)
    order = labelled[torch.argsort(counter_bits(seed, 0, labelled, TRAIN), stable=True)]
    classes = targets[order]
    kept = [order[classes == number][:count] for number, count in enumerate(sizes.tolist())]
    first, last = int(sizes.argmax()), int(len(sizes) - 1 - sizes.flip(0).argmin())
    note = (
        f"long tail {tail.ratio:g}:1 ({tail.profile}), {int(sizes[first]):,} training samples of "
        f"class {first} to {int(sizes[last]):,} of class {last}"
    )
    return torch.cat([*kept, among[~has_label(targets[among])]]).sort().values, note


def draw(
    targets: Tensor,
    size: Size,
    among: Tensor,
    seed: int,
    stream: int,
    *,
    stratify: bool = True,
    what: str = "samples",
) -> Tensor:
    """Return sorted positions drawn from ``among`` without replacement, class shares kept.

    Every class gets its proportional share, rounded by largest remainder so that the total is
    exact. A sample's place in the draw is a hash of its position.

    Args:
        targets: targets of the whole base set.
        size: how many (int) or which share of ``among`` (float in [0, 1]; at least one sample).
        among: int64 ``[n]``: positions to draw from.
        seed: seed of the draw.
        stream: its stream of random numbers.
        stratify: whether to keep class shares (for class targets only).
        what: name of the part, for messages.
    """
    count = _count(size, len(among), what)
    order = among[torch.argsort(counter_bits(seed, 0, among, stream), stable=True)]
    if not stratify or targets.is_floating_point() or targets.dim() > 1:
        return order[:count].sort().values
    classes = targets[order]
    values, sizes = torch.unique(classes, return_counts=True)
    exact = sizes.double() * count / max(len(among), 1)
    quotas = exact.floor().long()
    missing = count - int(quotas.sum())
    quotas[torch.argsort(quotas - exact, stable=True)[:missing]] += 1
    chosen = [
        order[classes == value][: int(quota)]
        for value, quota in zip(values.tolist(), quotas.tolist(), strict=True)
    ]
    return torch.cat([*chosen, order[:0]]).sort().values


def _count(size: Size, available: int, what: str) -> int:
    if isinstance(size, bool) or size < 0 or (isinstance(size, float) and size > 1):
        raise RecipeError(f"{what}: expected a number of samples or a share in [0, 1], got {size}")
    count = size if isinstance(size, int) else max(round(size * available), min(1, available))
    if count > available:
        raise DataError(f"{what}: {count} samples asked for, {available} there")
    return count


def labels_to_drop(
    targets: Tensor,
    train: Tensor,
    label_fraction: float | None,
    labels_per_class: int | None,
    seed: int,
    stratify: bool = True,
) -> Tensor:
    """Return the train positions that lose their labels (few-label settings); else none."""
    if label_fraction is not None and labels_per_class is not None:
        raise RecipeError("label_fraction and labels_per_class: give one of them, not both")
    labelled = train[has_label(targets[train])]
    if label_fraction is not None:
        if not 0 <= label_fraction <= 1:
            raise RecipeError(f"label_fraction: expected a share in [0, 1], got {label_fraction}")
        share: Size = 0 if label_fraction == 0 else float(label_fraction)
        kept = draw(targets, share, labelled, seed, LABELS, stratify=stratify)
    elif labels_per_class is not None:
        if isinstance(labels_per_class, bool) or labels_per_class < 0:
            raise RecipeError(f"labels_per_class: expected a number >= 0, got {labels_per_class}")
        if targets.is_floating_point() or targets.dim() > 1:
            raise RecipeError("labels_per_class needs classes: use label_fraction")
        order = labelled[torch.argsort(counter_bits(seed, 0, labelled, LABELS), stable=True)]
        classes = targets[order]
        kept = torch.cat(
            [order[classes == value][:labels_per_class] for value in torch.unique(classes).tolist()]
            + [order[:0]]
        )
    else:
        return train[:0]
    return labelled[~torch.isin(labelled, kept)]


def without_labels(targets: Tensor, positions: Tensor) -> Tensor:
    """Return a copy of the targets with no label at ``positions``."""
    targets = targets.clone()
    targets[positions] = float("nan") if targets.is_floating_point() else IGNORE
    return targets
