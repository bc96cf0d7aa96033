"""Long-tailed training parts: sizes of classes against the closed form, and refusals."""

import math

import pytest
import torch

from limbeck.data import IGNORE, bundle_from, load_data
from limbeck.data.imbalance import Imbalance, class_sizes
from limbeck.errors import DataError, RecipeError


def sizes_of(bundle, part="train"):
    return torch.bincount(bundle.splits[part].targets, minlength=bundle.num_outputs).tolist()


@pytest.mark.parametrize("ratio", [1, 10, 100])
@pytest.mark.parametrize("profile", ["exponential", "power"])
def test_sizes_follow_the_profile(ratio, profile):
    there = torch.full((10,), 1000)
    found = class_sizes(there, Imbalance(ratio, profile)).tolist()
    for rank, size in enumerate(found):
        exponent = rank / 9 if profile == "exponential" else math.log(rank + 1) / math.log(10)
        assert abs(size - 1000 * ratio**-exponent) <= 0.5 + 1e-9  # 62.5 is a tie
    assert found == sorted(found, reverse=True)
    assert found[0] / found[-1] == ratio


@pytest.mark.parametrize("total", [1000, 1003, 4077])
def test_a_total_is_exact_and_sizes_do_not_rise(total):
    found = class_sizes(torch.full((10,), 2000), Imbalance(10), total).tolist()
    assert sum(found) == total
    assert found == sorted(found, reverse=True)
    assert found[0] / found[-1] == pytest.approx(10, rel=0.05)


def test_no_class_gives_more_than_it_has():
    there = torch.tensor([100, 30, 500, 80])
    found = class_sizes(there, Imbalance(2))
    assert (found <= there).all()
    assert int(found.max()) == round(30 * 2 ** (1 / 3))  # the second class decides
    assert class_sizes(there, Imbalance(1)).tolist() == [30] * 4
    most = int(found.sum())
    with pytest.raises(DataError, match=r"needs \d+ of class 1, 30 there; at most num_train=\d+"):
        class_sizes(there, Imbalance(2), most + 10)


def test_the_number_that_the_refusal_names_fits():
    there = torch.tensor([97, 88, 301, 45, 60])
    for ratio in (1, 1.7, 4, 9):
        with pytest.raises(DataError) as caught:
            class_sizes(there, Imbalance(ratio), 580)
        most = int(str(caught.value).rpartition("=")[2])
        assert int(class_sizes(there, Imbalance(ratio), most).sum()) == most
        with pytest.raises(DataError):
            class_sizes(there, Imbalance(ratio), most + 1)


def test_a_source_gets_a_tail_in_train_alone():
    plain, tail = load_data("digits"), load_data("digits", imbalance=10, num_train=300)
    found = sizes_of(tail)
    assert sum(found) == 300
    assert found == sorted(found, reverse=True)
    for part in ("validation", "test"):
        assert torch.equal(tail.splits[part].indices, plain.splits[part].indices)
    inside = torch.isin(tail.splits["train"].indices, plain.splits["train"].indices)
    assert inside.all()
    assert plain.fingerprint() != tail.fingerprint()
    said = f"long tail 10:1 (exponential), {found[0]} training samples of class 0 to {found[-1]} of"
    assert said in tail.describe()


def test_a_rarer_class_is_the_beginning_of_itself():
    few, many = (load_data("digits", imbalance=ratio).splits["train"] for ratio in (20, 2))
    rare = few.indices[few.targets == 9]
    assert torch.isin(rare, many.indices).all()


def test_the_order_of_classes_can_be_drawn():
    drawn = {"ratio": 10, "order": "drawn"}
    first, second = (sizes_of(load_data("digits", imbalance=drawn | {"seed": k})) for k in (0, 1))
    assert sorted(first) != first[::-1]
    assert first.index(max(first)) != second.index(max(second))
    assert max(first) / min(first) == pytest.approx(10, rel=0.1)


def test_samples_without_a_label_stay():
    x, y = torch.rand(200, 2), torch.arange(200) % 4
    part = (x[:40], y[:40])
    bundle = bundle_from((x, y), part, part, unlabelled=(x[:30],), imbalance=5, num_train=80)
    view = bundle.splits["train"]
    assert int(view.labelled.sum()) == 80
    assert len(view) == 110


@pytest.mark.parametrize(
    ("tail", "error", "line"),
    [
        (0.5, RecipeError, "imbalance.ratio: expected a number of at least 1, got 0.5"),
        (math.inf, RecipeError, "imbalance.ratio: .*got inf"),
        ({}, RecipeError, "imbalance.ratio: .*got None"),
        ({"ration": 2}, RecipeError, "imbalance: unknown key 'ration': did you mean 'ratio'"),
        ({"ratio": 2, "profile": "powr"}, RecipeError, "imbalance.profile: .*did you mean 'power'"),
        ({"ratio": 2, "order": "lot"}, RecipeError, "imbalance.order: unknown order 'lot'"),
        ({"ratio": 2, "seed": 0.5}, RecipeError, "imbalance.seed: expected a whole number"),
        (1000, RecipeError, r"ratio: 1000 leaves class 7 without a training sample; give a sm"),
    ],
)
def test_what_is_no_tail_is_refused(tail, error, line):
    with pytest.raises(error, match=line) as caught:
        load_data("digits", imbalance=tail)
    assert "\n" not in str(caught.value)


def test_data_that_cannot_have_a_tail_are_refused():
    x = torch.rand(60, 3)
    for task in ("multilabel", "regression"):
        with pytest.raises(RecipeError, match="imbalance: needs one class a sample"):
            bundle_from((x, x.round()), task=task, imbalance=2)
    with pytest.raises(RecipeError, match="at least two classes, the data have 1"):
        bundle_from((x, torch.zeros(60).long()), imbalance=2)
    blank = torch.full((60,), IGNORE)
    part = (x[:4], torch.arange(4) % 2)
    with pytest.raises(RecipeError, match="at least two classes, the data have 0"):
        bundle_from((x, blank), part, part, num_classes=2, task="classification", imbalance=2)
    y = torch.arange(60) % 3
    y[y == 1] = 2
    with pytest.raises(DataError, match="imbalance: class 1 has no training sample"):
        bundle_from((x, y), imbalance=2)
