"""Bundles of a user's own data: parts, identity, refusals."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from limbeck.data import IGNORE, Augment, Normalize, bundle_from, data_options, load_data
from limbeck.data.registry import register_data
from limbeck.errors import DataError, RecipeError


def pair(size: int = 40, num_classes: int = 4, shift: float = 0.0) -> tuple[Any, Any]:
    return torch.arange(float(size))[:, None] + shift, torch.arange(size) % num_classes


def test_missing_parts_are_cut_from_train_and_said() -> None:
    bundle = bundle_from(pair())
    assert bundle.task == "classification"
    assert bundle.num_outputs == bundle.num_classes == 4
    assert bundle.input_shape == (1,)
    assert {name: len(view) for name, view in bundle.splits.items()} == {
        "train": 29,
        "validation": 3,
        "test": 8,
    }
    assert bundle.describe() == (
        "data: classification, 4 classes, input 1; train 29; validation 3; test 8; "
        "validation and test cut from train"
    )
    seen = [view.fetch(torch.arange(len(view))).inputs for view in bundle.splits.values()]
    assert torch.cat(seen)[:, 0].sort().values.tolist() == list(range(40))


def test_given_parts_are_used() -> None:
    bundle = bundle_from(TensorDataset(*pair()), pair(8, shift=100), (np.eye(3), np.arange(3)))
    assert [len(view) for view in bundle.splits.values()] == [40, 8, 3]
    assert "cut" not in bundle.describe()
    only_test = bundle_from(pair(), test=pair(8))
    assert "validation cut from train" in only_test.describe()
    assert only_test.record.bases == ("train", "train", "test")


def test_few_labels_and_a_transfer_set() -> None:
    bundle = bundle_from(pair(), labels_per_class=2, unlabelled=pair(30, shift=1000))
    train = bundle.splits["train"]
    assert "train 59 (8 labelled + 51 unlabelled)" in bundle.describe()
    labels = train.targets
    assert torch.bincount(labels[labels != IGNORE]).tolist() == [2, 2, 2, 2]
    batch = train.fetch(torch.arange(len(train)))
    assert batch.targets is not None
    assert (batch.targets[batch.inputs[:, 0] >= 1000] == IGNORE).all()
    for part in ("validation", "test"):
        assert bundle.splits[part].labelled.all()
        assert (bundle.splits[part].fetch(torch.arange(3)).inputs < 1000).all()


@pytest.mark.parametrize(
    ("targets", "task", "outputs"),
    [
        (torch.rand(40), "regression", 1),
        (torch.rand(40, 3), "regression", 3),
        (torch.randint(0, 2, (40, 5)), "multilabel", 5),
        (torch.arange(40) % 7, "classification", 7),
        (torch.arange(40, dtype=torch.uint8) % 7, "classification", 7),
    ],
)
def test_the_task_is_guessed(targets: torch.Tensor, task: str, outputs: int) -> None:
    bundle = bundle_from((torch.rand(40, 2), targets))
    assert (bundle.task, bundle.num_outputs) == (task, outputs)
    held = bundle.splits["train"].targets
    assert held.dtype == (torch.int64 if task == "classification" else torch.float32)
    assert held.dim() == (1 if task == "classification" else 2)


def test_a_set_without_labels_needs_the_task() -> None:
    with pytest.raises(DataError, match="say task= and num_classes="):
        bundle_from(torch.rand(9, 2), pair(4), pair(4))
    inputs = torch.rand(9, 1)
    bundle = bundle_from(inputs, pair(4), pair(4), task="classification", num_classes=4)
    assert "train 9 (0 labelled + 9 unlabelled)" in bundle.describe()
    real = bundle_from(inputs, *[(inputs, inputs)] * 2, task="regression", num_classes=1)
    assert torch.isnan(real.splits["train"].targets).all()


def test_statistics_reach_both_pipelines() -> None:
    images = torch.randint(0, 256, (40, 3, 6, 6), dtype=torch.uint8)
    stats = Normalize((0.5,) * 3, (0.25,) * 3)
    bundle = bundle_from((images, torch.arange(40) % 2), normalization=stats, augment=["flip"])
    assert bundle.augment_eval.normalization == bundle.augment_train.normalization == stats
    assert bundle.augment_train.is_random
    assert not bundle.augment_eval.is_random
    assert bundle.augment_train == Augment(["flip", *bundle.augment_eval.spec])
    assert bundle.input_shape == (3, 6, 6)


def test_the_fingerprint_follows_content_targets_and_cuts() -> None:
    base = bundle_from(pair()).fingerprint()
    assert base == bundle_from(pair()).fingerprint()
    assert base == bundle_from(TensorDataset(*pair())).fingerprint()
    x, y = pair()
    others = [
        bundle_from((x + 1e-5, y)),
        bundle_from((x, (y + 1) % 4)),
        bundle_from((x, y), seed=1),
        bundle_from((x, y), labels_per_class=2),
        bundle_from((x, y), num_classes=5),
        bundle_from((x, y), test=pair(8)),
    ]
    prints = [other.fingerprint() for other in others]
    assert len({base, *prints}) == 7


X3, X4, Y3 = torch.zeros(3, 1), torch.zeros(4, 1), torch.tensor([0, 1, 0])
BAD = {
    "the train data are empty": (torch.zeros(0, 2), torch.zeros(0).long()),
    "train, sample 1: the input contains nan": (X3 + torch.tensor([[0], [torch.nan], [1]]), Y3),
    "train, sample 2: the input contains -inf": (X3 - torch.tensor([[0], [0], [torch.inf]]), Y3),
    "train, sample 2: label 5 is out of range; expected 0 to 2": (X4, torch.tensor([0, 1, 5, 1])),
    "train, sample 1: label -1 is out of range": (X4, torch.tensor([0, -1, 2, 1])),
    "train, sample 2: label 1.5 is not a whole number": (X4, torch.tensor([0, 1, 1.5, 2])),
}


@pytest.mark.parametrize(("train", "message"), [(data, text) for text, data in BAD.items()])
def test_bad_content_is_one_line_with_split_sample_and_value(train: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        bundle_from(train, task="classification", num_classes=3)
    assert "\n" not in str(caught.value)


def test_bad_targets_of_other_tasks() -> None:
    x = torch.rand(4, 1)
    with pytest.raises(DataError, match=r"sample 3: target inf; expected a finite number"):
        bundle_from((x, torch.tensor([0.0, 1.0, 2.0, torch.inf])), task="regression")
    with pytest.raises(DataError, match=r"sample 1: target 2; expected 0 or 1"):
        bundle_from((x, torch.tensor([[0, 1], [2, 0], [0, 0], [1, 1]])), task="multilabel")
    with pytest.raises(DataError, match=r"validation: targets of shape \[4, 2\]"):
        bundle_from((x, x), (x, torch.rand(4, 2)), task="regression")
    with pytest.raises(DataError, match="test, sample 0: label 9 is out of range"):
        bundle_from(pair(), test=(torch.rand(1, 1), torch.tensor([9])))
    with pytest.raises(RecipeError, match="did you mean 'regression'"):
        bundle_from((x, x), task="regresion")
    with pytest.raises(DataError, match="2 class names for 4 classes"):
        bundle_from(pair(), num_classes=4, class_names=["a", "b"])


def test_missing_labels_of_every_kind() -> None:
    x = torch.rand(40, 1)
    y = (torch.arange(40) % 4).float()
    y[::4] = torch.nan
    bundle = bundle_from((x, y), task="classification")
    assert int((~bundle.splits["train"].labelled).sum()) == 10


def test_options_are_checked_by_name() -> None:
    options = data_options("digits")
    assert options["seed"] == 0
    assert {"validation", "labels_per_class", "augment"} <= set(options)
    with pytest.raises(RecipeError, match="did you mean 'labels_per_class'"):
        load_data("digits", labels_pre_class=3)
    with pytest.raises(RecipeError, match="unknown data 'digit': did you mean 'digits'"):
        load_data("digit")
    with pytest.raises(RecipeError, match="registered twice"):
        register_data("digits")(lambda: bundle_from(pair()))


def test_importing_brings_nothing_heavy() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import limbeck.data, limbeck.data.sources;"
        "heavy = {'pandas', 'PIL', 'sklearn', 'scipy', 'matplotlib', 'pyarrow'};"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ((X3, torch.full((3,), IGNORE)), "no train sample has a label: say num_classes="),
        ((X3, torch.full((3,), torch.nan)), "no train sample has a label: say num_classes="),
        ((X3, torch.tensor([0, 1, torch.inf])), "sample 2: label inf is not a whole number"),
    ],
)
def test_classes_that_cannot_be_counted(train: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        bundle_from(train, task="classification")


class Words(Dataset[Any]):
    """Items that are no tensors, or not alike."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([("a word", 0), ("two", 1)], "train.* is of type list; expected a tensor"),
        ([{"text": "a", "y": 0}] * 3, "train.*input 'text' is of type list"),
        ([{"y": 0}] * 3, "train.*the input mapping is empty"),
        ([(torch.zeros(2), 0), (torch.zeros(3), 1)], "inputs of different items cannot be joined"),
        ([({"a": X3}, 0), ({"b": X3}, 1)], "inputs of different items cannot be joined"),
        ([(X3, [0, 1]), (X3, [1])], "labels of different items cannot be joined"),
    ],
)
def test_items_that_make_no_batch(items: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        bundle_from(Words(*items))
    assert "\n" not in str(caught.value)


def test_an_overlay_changes_the_fingerprint() -> None:
    bundle = bundle_from(pair())
    train = bundle.splits["train"]
    place = train.indices[:1]
    prints = {
        bundle.with_train(view).fingerprint()
        for view in (
            train,
            train.with_overlay(place, torch.tensor([[5.0]])),
            train.with_overlay(place, torch.tensor([[6.0]])),
            train.with_overlay(train.indices[1:2], torch.tensor([[6.0]])),
        )
    }
    assert len(prints) == 4
    assert bundle.fingerprint() in prints


def test_a_transfer_set_of_another_kind() -> None:
    """Labels of a transfer set are never used, be they there, missing, or nonsense."""
    items = Words(*[torch.tensor([1000.0 + k]) for k in range(6)])
    for unlabelled in (items, (torch.arange(1000.0, 1006.0)[:, None], torch.full((6,), 99))):
        bundle = bundle_from(pair(), unlabelled=unlabelled, num_train=0.5)
        train = bundle.splits["train"]
        assert len(train) == 18
        batch = train.fetch(torch.arange(18))
        assert batch.labelled is not None
        assert torch.equal(batch.labelled, batch.inputs[:, 0] < 1000)
        assert 0 < int((~batch.labelled).sum()) < 18
    real = bundle_from((X4, torch.rand(4)), (X4, X4), (X4, X4), unlabelled=(X3, torch.rand(3)))
    assert torch.isnan(real.splits["train"].targets[4:]).all()
    with pytest.raises(DataError, match="the unlabelled data are empty"):
        bundle_from(pair(), unlabelled=torch.zeros(0, 1))
    with pytest.raises(DataError, match="unlabelled, sample 1: the input contains nan"):
        bundle_from(pair(), unlabelled=torch.tensor([[0.0], [torch.nan]]))
