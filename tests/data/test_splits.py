"""Splits: exact sizes, class shares, no overlap, labels dropped."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data import IGNORE, Splits, make_splits
from limbeck.data.batch import has_label
from limbeck.data.splits import draw, without_labels
from limbeck.errors import DataError, RecipeError


def classes(sizes: tuple[int, ...] = (50, 30, 20)) -> torch.Tensor:
    return torch.cat([torch.full((n,), k) for k, n in enumerate(sizes)])[torch.randperm(sum(sizes))]


def shares(targets: torch.Tensor, positions: torch.Tensor) -> list[int]:
    return torch.bincount(targets[positions], minlength=3).tolist()


def test_class_shares_are_kept_exactly_where_they_divide() -> None:
    targets = classes()
    splits = make_splits(targets, validation=0.125, test=0.2)
    assert shares(targets, splits.test) == [10, 6, 4]
    assert shares(targets, splits.validation) == [5, 3, 2]
    assert shares(targets, splits.train) == [35, 21, 14]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.floats(0.05, 0.4),
    st.integers(1, 8),
    st.integers(0, 5),
)
def test_the_parts_are_disjoint_and_cover_the_set(
    sizes: list[int], validation: float, test: int, seed: int
) -> None:
    targets = classes((*sizes, 20))
    splits = make_splits(targets, validation=validation, test=test, seed=seed)
    together = torch.cat([splits.train, splits.validation, splits.test])
    assert together.sort().values.tolist() == list(range(len(targets)))
    assert len(splits.test) == test
    assert len(splits.validation) == max(1, round(validation * (len(targets) - test)))
    for part in (splits.test, splits.validation):  # each class within one of its proportion
        pool = targets if part is splits.test else targets[torch.cat([splits.train, part])]
        for value in targets.unique().tolist():
            exact = int((pool == value).sum()) * len(part) / len(pool)
            assert abs(int((targets[part] == value).sum()) - exact) < 1


def test_cuts_are_a_function_of_the_seed() -> None:
    targets = classes()
    a, b, c = (make_splits(targets, seed=seed) for seed in (1, 1, 2))
    assert a.digest() == b.digest() != c.digest()
    fixed = [make_splits(targets, seed=seed, test_seed=0) for seed in (1, 2)]
    assert torch.equal(fixed[0].test, fixed[1].test)
    assert not torch.equal(fixed[0].validation, fixed[1].validation)


def test_validation_and_test_take_only_labelled_samples() -> None:
    targets = classes()
    targets[:60] = IGNORE
    splits = make_splits(targets, validation=0.25, test=10)
    assert has_label(targets[splits.test]).all()
    assert has_label(targets[splits.validation]).all()
    assert int((targets[splits.train] == IGNORE).sum()) == 60


def test_separate_files_are_used_whole_or_in_part() -> None:
    whole = make_splits(classes(), validation_targets=classes(), test_targets=classes())
    assert (len(whole.train), len(whole.validation), len(whole.test)) == (100, 100, 100)
    assert whole.bases == ("train", "validation", "test")
    part = make_splits(
        classes(), validation_targets=classes(), test_targets=classes(), validation=40, num_train=10
    )
    assert (len(part.train), len(part.validation), len(part.test)) == (10, 40, 100)


@pytest.mark.parametrize("per_class", [0, 1, 7, 25])
def test_labels_per_class(per_class: int) -> None:
    targets = classes()
    splits = make_splits(targets, labels_per_class=per_class)
    kept = without_labels(targets, splits.unlabelled)[splits.train]
    there = shares(targets, splits.train)
    assert torch.bincount(kept[kept >= 0], minlength=3).tolist() == [
        min(per_class, n) for n in there
    ]
    assert len(splits.train) == sum(there)  # nothing leaves: the rest are unlabelled


def test_label_fraction() -> None:
    targets = classes()
    splits = make_splits(targets, validation=0.125, test=0.2, label_fraction=0.1)
    kept = without_labels(targets, splits.unlabelled)[splits.train]
    assert int(has_label(kept).sum()) == 7
    assert len(make_splits(targets, label_fraction=1.0).unlabelled) == 0
    none = make_splits(targets, label_fraction=0)
    assert torch.equal(none.unlabelled, none.train)


def test_real_targets_lose_theirs_as_nan() -> None:
    targets = torch.arange(40.0)[:, None]
    splits = make_splits(targets, label_fraction=0.5)
    kept = without_labels(targets, splits.unlabelled)
    assert int(has_label(kept[splits.train]).sum()) == round(0.5 * len(splits.train))
    assert not torch.isnan(targets).any()


def test_a_draw_is_fair() -> None:
    """Every sample of a class is equally likely over seeds."""
    targets = classes((10, 10))
    counts = torch.zeros(20)
    for seed in range(600):
        counts[draw(targets, 10, torch.arange(20), seed, 0)] += 1
    assert float(((counts - 300) ** 2 / 150).sum()) < 50  # about 19 degrees of freedom


def test_the_record_is_what_a_run_keeps() -> None:
    record = make_splits(classes(), seed=3, labels_per_class=2).record()
    assert json.loads(json.dumps(record)) == record
    assert (record["train"], record["validation"], record["test"]) == (72, 8, 20)
    assert record["unlabelled"] == 66
    assert record["seed"] == 3
    assert len(record["digest"]) == 64


def test_overlap_cannot_be_built() -> None:
    a, b, c = torch.arange(5), torch.arange(4, 8), torch.arange(8, 9)
    with pytest.raises(DataError, match=r"train and validation share 1 samples \(position 4\)"):
        Splits(a, b, c)
    with pytest.raises(DataError, match="validation and test share"):
        Splits(a, b + 1, b + 4)
    with pytest.raises(DataError, match="the test split is empty"):
        Splits(a, b + 1, c[:0])
    with pytest.raises(DataError, match="must be part of train"):
        Splits(a, b + 1, c + 1, unlabelled=b + 2)
    assert len(Splits(a, a, a, bases=("train", "validation", "test")).test) == 5


def test_misuse_is_one_clear_line() -> None:
    with pytest.raises(DataError, match="test: 200 samples asked for, 100 there"):
        make_splits(classes(), test=200)
    with pytest.raises(RecipeError, match=r"share in \[0, 1\], got 1\.5"):
        make_splits(classes(), validation=1.5)
    with pytest.raises(RecipeError, match="not both"):
        make_splits(classes(), label_fraction=0.1, labels_per_class=1)
    with pytest.raises(RecipeError, match="label_fraction: expected a share"):
        make_splits(classes(), label_fraction=2)
    with pytest.raises(RecipeError, match="needs classes"):
        make_splits(torch.rand(30, 1), labels_per_class=2)
    with pytest.raises(DataError, match="the train split is empty"):
        make_splits(classes(), test=99, validation=1)
