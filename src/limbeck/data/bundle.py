"""DataBundle: everything a run needs to know about its data."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypedDict

import torch
from torch import Tensor

from limbeck.data.augment import Augment
from limbeck.data.batch import first_tensor, has_label
from limbeck.data.check import canonical_targets, check_inputs, count_outputs, infer_task
from limbeck.data.datasets import as_samples
from limbeck.data.folds import without_fold
from limbeck.data.label_noise import LabelNoise, read_label_noise, with_noise
from limbeck.data.normalize import Normalize
from limbeck.data.samples import ConcatSamples, Samples, digest_of, hash_tensors, targets_of
from limbeck.data.splits import PARTS, Size, Splits, make_splits, without_labels
from limbeck.data.steps import Step
from limbeck.data.view import View
from limbeck.data.vocabulary import Vocabulary
from limbeck.errors import DataError, RecipeError, unknown


class LabelOptions(TypedDict, total=False):
    """Options of labels, seed and augmentation; see ``bundle_from`` and ``make_splits``."""

    imbalance: float | Mapping[str, Any] | None
    label_noise: float | Mapping[str, Any] | None
    label_fraction: float | None
    labels_per_class: int | None
    seed: int
    augment: Sequence[Step]
    leave_out: Mapping[str, int] | None


class Common(LabelOptions, total=False):
    """Options that every data set has that does not fix its sizes."""

    validation: Size | None
    num_train: Size | None


COMMON_DEFAULTS: dict[str, Any] = {
    "validation": None,
    "num_train": None,
    "imbalance": None,
    "label_noise": None,
    "label_fraction": None,
    "labels_per_class": None,
    "seed": 0,
    "augment": (),
    "leave_out": None,
}


@dataclass(frozen=True, eq=False)
class DataBundle:
    """Data ready for a run: parts, augmentation, statistics and their identity.

    Attributes:
        name: what ``describe`` calls it.
        task: "classification", "multilabel" or "regression".
        num_outputs: classes, or values a sample.
        class_names: one a class; () where there are none.
        input_shape: of one sample as the model sees it.
        splits: views named "train", "validation" and "test".
        augment_train: from raw inputs to training inputs.
        augment_eval: from raw inputs to evaluation inputs.
        normalization: the statistics both use; None: inputs are not normalised.
        record: which positions went where.
        superclasses: named coarser labels: int64 ``[num_outputs]``, superclass of each class.
        feature_names: names of the input columns of tables.
        encoding: how each column of a table became input columns, in plain data; () for others.
        extra: further views ("teacher_pairs" of P100).
        notes: what was decided for the user, said in ``describe``.
        relabelled: int64, positions of training samples whose label was replaced (label noise).
        vocabulary: the tokenizer of texts, which networks must fit; None for other data.
        groups: by part, int64 ``[len(part)]``: groups of samples whose accuracies are told apart
            (class and background, say); parts without any are left out.
        group_names: one a group; () for their numbers.
        masks: by part, ``[len(part), height, width]``: where what matters is, for maps.
    """

    name: str
    task: str
    num_outputs: int
    class_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    splits: dict[str, View]
    augment_train: Augment
    augment_eval: Augment
    normalization: Normalize | None
    record: Splits
    superclasses: dict[str, Tensor] = field(default_factory=dict)
    feature_names: tuple[str, ...] = ()
    encoding: tuple[Mapping[str, Any], ...] = ()
    extra: dict[str, View] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    relabelled: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    vocabulary: Vocabulary | None = None
    groups: Mapping[str, Tensor] = field(default_factory=dict)
    group_names: tuple[str, ...] = ()
    masks: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """The same as ``num_outputs``."""
        return self.num_outputs

    def fingerprint(self) -> str:
        """Return the sha256 over raw data, targets, task and split positions (computed once)."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.task}|{self.num_outputs}".encode())
        contents: dict[int, str] = {}
        for name, view in {**self.splits, **self.extra}.items():
            key = id(view.samples)
            if key not in contents:
                contents[key] = digest_of(view.samples)
            digest.update(f"|{name}|{contents[key]}|".encode())
            digest.update(hash_tensors(view.indices, view.targets).encode())
            if view.overlay_rows is not None:
                digest.update(hash_tensors(view.overlay_rows, view.overlay_inputs).encode())
        return digest.hexdigest()

    def describe(self) -> str:
        """Return one line: task, classes, input, sizes of the parts, decisions."""
        kind = "classes" if self.task == "classification" else "outputs"
        shape = "x".join(str(size) for size in self.input_shape)
        parts = [f"{self.name}: {self.task}, {self.num_outputs:,} {kind}, input {shape}"]
        for name, view in self.splits.items():
            labelled = int(view.labelled.sum())
            size = f"{name} {len(view):,}"
            if labelled < len(view):
                size += f" ({labelled:,} labelled + {len(view) - labelled:,} unlabelled)"
            parts.append(size)
        return "; ".join([*parts, *self.notes])

    def with_train(self, view: View, name: str | None = None) -> DataBundle:
        """Return the bundle with another train view (of teacher pairs, say)."""
        splits = {**self.splits, "train": view}
        return dataclasses.replace(
            self,
            splits=splits,
            name=name or self.name,
            groups=_without_train(self.groups),
            masks=_without_train(self.masks),
        )


def bundle_from(
    train: Any,
    validation: Any = None,
    test: Any = None,
    *,
    unlabelled: Any = None,
    task: str | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] = (),
    normalization: Normalize | None = None,
    augment: Sequence[Step] = (),
    validation_size: Size | None = None,
    test_size: Size | None = None,
    num_train: Size | None = None,
    imbalance: float | Mapping[str, Any] | None = None,
    label_noise: float | Mapping[str, Any] | None = None,
    label_fraction: float | None = None,
    labels_per_class: int | None = None,
    seed: int = 0,
    test_seed: int | None = None,
    stratify: bool = True,
    num_workers: int = 0,
    splits: Splits | None = None,
    leave_out: Mapping[str, int] | None = None,
    groups: Mapping[str, Tensor] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    name: str = "data",
    **more: Any,
) -> DataBundle:
    """Make a DataBundle of a user's own data.

    Args:
        train: anything ``as_samples`` reads: a data set, a pair (x, y) of tensors or arrays.
        validation: likewise; None: cut from train (and said so).
        test: likewise; None: cut from train (and said so).
        unlabelled: further train samples whose labels, if any, are not used: a transfer set.
        task: None: guessed from the targets.
        num_classes: classes or outputs; None: counted in train.
        class_names: one a class.
        normalization: statistics of inputs in [0, 1]; None: not normalised.
        augment: steps of the training augmentation (``Augment``).
        validation_size: number or share of samples drawn for validation (``make_splits``).
        test_size: likewise for test.
        num_train: number or share of the remaining samples to train on.
        imbalance: the training classes with a long tail: a ratio of at least 1, or the fields of
            `limbeck.data.imbalance.Imbalance` (see ``make_splits``); None: as they are.
        label_noise: share of the training labels that are replaced by wrong ones, or the fields of
            `limbeck.data.label_noise.LabelNoise`; labels of other parts stay, unless those of
            validation are asked for. None: none is.
        label_fraction: share of the train part that keeps its labels.
        labels_per_class: labels a class that the train part keeps.
        seed: seed of the cuts.
        test_seed: seed of the test cut alone; None: ``seed``.
        stratify: whether cuts keep class shares.
        num_workers: processes that fetch data sets ahead.
        splits: ready-made parts; None: made here.
        leave_out: ``{"fold": 0, "of": 5}``: the train part without one of its folds, which are
            drawn with a ``seed`` of their own (0); None: all of it.
        groups: by what was given ("train", "validation", "test"), a group for every sample of it,
            int64 ``[n]``; parts that are cut take theirs along.
        masks: likewise ``[n, height, width]``: where what matters is.
        name: for messages.
        **more: further fields of the bundle (superclasses, feature_names, encoding, extra, notes,
            group_names, vocabulary).

    Raises:
        DataError: empty parts, NaN or infinite inputs, labels out of range or not whole, groups
            or masks of another number of samples.
        RecipeError: an unknown task or augmentation, or label noise or a long tail that these
            targets cannot have.
    """
    bases = {"train": as_samples(train, num_workers=num_workers)}
    for part, data in (("validation", validation), ("test", test)):
        if data is not None:
            bases[part] = as_samples(data, num_workers=num_workers)
    for part, samples in bases.items():
        check_inputs(samples, part)
    raw = {part: targets_of(samples) for part, samples in bases.items()}
    task = task or infer_task(raw["train"])
    outputs = num_classes or len(class_names) or count_outputs(raw["train"], task)
    if class_names and len(class_names) != outputs:
        raise DataError(f"{len(class_names)} class names for {outputs} classes")
    targets = {part: canonical_targets(raw[part], task, outputs, part) for part in bases}
    if unlabelled is not None:
        bases["train"], targets["train"] = _with_transfer_set(
            bases["train"], targets["train"], as_samples(unlabelled, num_workers=num_workers)
        )
    if splits is None:
        splits = make_splits(
            targets["train"],
            validation=validation_size,
            test=test_size,
            validation_targets=targets.get("validation"),
            test_targets=targets.get("test"),
            num_train=num_train,
            imbalance=imbalance,
            label_fraction=label_fraction,
            labels_per_class=labels_per_class,
            seed=seed,
            test_seed=test_seed,
            stratify=stratify,
        )
        cut = [part for part in PARTS[1:] if part not in bases]
        if cut:
            more["notes"] = (*more.get("notes", ()), f"{' and '.join(cut)} cut from train")
    told = [*more.pop("notes", ()), *splits.notes]
    noise = _noise(label_noise, task, outputs, class_names)
    held, relabelled = _train_labels(targets["train"], splits, noise, outputs)
    if leave_out is not None:  # after the noise: a fold's labels are those of the whole
        splits = without_fold(splits, held, leave_out)
        relabelled = relabelled[torch.isin(relabelled, splits.train)]
        told.append(f"without fold {leave_out['fold']} of {leave_out['of']}")
    if noise is not None:
        count = int(has_label(held[splits.train]).sum())
        told.append(
            f"{len(relabelled):,} of {count:,} training labels replaced ({noise.kind} noise)"
        )
    views = {"train": View(bases["train"], splits.train, held)}
    for part in PARTS[1:]:
        base = splits.base(part)
        shown = targets[base]
        if noise is not None and noise.validation and part == "validation":
            shown, wrong = with_noise(shown, splits[part], noise, outputs)
            told.append(f"{len(wrong):,} of {len(splits[part]):,} validation labels replaced")
        views[part] = View(bases[base], splits[part], shown)
    fixed: list[Step] = []
    if normalization is not None:
        fixed.append({"normalize": {"mean": normalization.mean, "std": normalization.std}})
    augment_eval = Augment(fixed)
    shown = augment_eval(views["test"].fetch(torch.zeros(1, dtype=torch.int64)).inputs)
    return DataBundle(
        name=name,
        task=task,
        num_outputs=outputs,
        class_names=tuple(class_names),
        input_shape=tuple(first_tensor(shown).shape[1:]),
        splits=views,
        augment_train=Augment([*augment, *fixed]),
        augment_eval=augment_eval,
        normalization=normalization,
        record=splits,
        notes=tuple(told),
        relabelled=relabelled,
        groups=_by_part("groups", groups or {}, bases, splits),
        masks=_by_part("masks", masks or {}, bases, splits),
        **more,
    )


def _by_part(
    what: str, given: Mapping[str, Tensor], bases: Mapping[str, Samples], splits: Splits
) -> dict[str, Tensor]:
    """Return rows of each part, of those that were given for the base sets."""
    for base, rows in given.items():
        if base not in bases:
            raise DataError(f"{what}: " + unknown("part", base, bases))
        if len(rows) != len(bases[base]):
            raise DataError(f"{what}: {len(rows):,} for {len(bases[base]):,} samples of {base!r}")
    parts = {part: splits.base(part) for part in PARTS}
    return {part: given[base][splits[part]] for part, base in parts.items() if base in given}


def _without_train(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {part: row for part, row in rows.items() if part != "train"}


def _noise(
    given: float | Mapping[str, Any] | None, task: str, outputs: int, names: Sequence[str]
) -> LabelNoise | None:
    if given is None:
        return None
    if task != "classification":
        raise RecipeError(f"data.label_noise: replaces classes; the task is {task}")
    return read_label_noise(given, outputs, names)


def _train_labels(
    targets: Tensor, splits: Splits, noise: LabelNoise | None, outputs: int
) -> tuple[Tensor, Tensor]:
    """Return the train part's targets ``[n]``, and the positions whose label was replaced."""
    if len(splits.unlabelled):
        targets = without_labels(targets, splits.unlabelled)
    if noise is None:
        return targets, splits.train[:0]
    return with_noise(targets, splits.train, noise, outputs)


def _with_transfer_set(
    train: Samples, targets: Tensor, transfer: Samples
) -> tuple[Samples, Tensor]:
    """Return train and transfer set as one set; the transfer set's targets are not labels."""
    check_inputs(transfer, "unlabelled")
    blank = without_labels(targets[:1].expand(1, *targets.shape[1:]), torch.tensor([0]))
    joined = torch.cat([targets, blank.expand(len(transfer), *targets.shape[1:])])
    return ConcatSamples([train, transfer], joined), joined
