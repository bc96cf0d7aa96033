"""Label noise: how many training labels are wrong, which, and nothing else."""

import math

import pytest
import torch

from limbeck.data import IGNORE, bundle_from, load_data, targets_of
from limbeck.data.label_noise import LabelNoise, with_noise
from limbeck.errors import RecipeError


def labels(bundle, part="train"):
    return bundle.splits[part].targets


def wrong(bundle):
    view = bundle.splits["train"]
    return view.targets != targets_of(view.samples)[view.indices]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 1.0])
def test_the_share_is_exact_over_all_and_in_every_class(share):
    clean, noisy = load_data("digits"), load_data("digits", label_noise=share)
    off = wrong(noisy)
    count = len(off)
    assert int(off.sum()) == round(share * count) == len(noisy.relabelled)
    for number in range(10):
        own = labels(clean) == number
        assert abs(int(off[own].sum()) - share * int(own.sum())) < 1
    assert torch.equal(noisy.splits["train"].indices[off], noisy.relabelled)
    assert torch.equal(noisy.splits["train"].indices, clean.splits["train"].indices)
    told = f"{round(share * count):,} of {count:,} training labels replaced (symmetric noise)"
    assert told in noisy.describe()


def test_validation_and_test_keep_their_labels_and_inputs_stay():
    clean, noisy = load_data("digits"), load_data("digits", label_noise=0.5)
    for part in ("validation", "test"):
        assert torch.equal(labels(clean, part), labels(noisy, part))
        batch = noisy.splits[part].fetch(torch.arange(20))
        assert torch.equal(batch.targets, labels(clean, part)[:20])
    every = torch.arange(len(labels(noisy)))
    batch = noisy.splits["train"].fetch(every)
    assert torch.equal(batch.targets, labels(noisy))
    assert torch.equal(batch.inputs, clean.splits["train"].fetch(every).inputs)


def test_validation_labels_are_replaced_where_that_is_asked_for():
    clean = load_data("digits")
    noisy = load_data("digits", label_noise={"share": 0.4, "validation": True})
    usual = load_data("digits", label_noise=0.4)
    off = labels(clean, "validation") != labels(noisy, "validation")
    count = len(off)
    assert int(off.sum()) == round(0.4 * count)
    assert torch.equal(labels(usual), labels(noisy))
    assert torch.equal(labels(clean, "test"), labels(noisy, "test"))
    assert f"{round(0.4 * count)} of {count} validation labels replaced" in noisy.describe()
    assert "validation labels" not in usual.describe()


def test_wrong_classes_are_drawn_alike():
    targets = torch.zeros(9000, dtype=torch.int64)
    noisy, chosen = with_noise(targets, torch.arange(9000), LabelNoise(1.0), 10)
    counts = torch.bincount(noisy, minlength=10)
    assert counts[0] == 0
    assert len(chosen) == 9000
    expected = 9000 / 9
    chi = float(((counts[1:] - expected) ** 2 / expected).sum())
    assert chi < 26.1  # 0.999 quantile of chi-square with 8 degrees of freedom


def test_asymmetric_noise_goes_to_the_next_class_or_where_it_is_told():
    flips = load_data("digits", label_noise={"share": 0.3, "kind": "asymmetric"})
    off = wrong(flips)
    view = flips.splits["train"]
    own = targets_of(view.samples)[view.indices]
    assert torch.equal(labels(flips)[off], (own[off] + 1) % 10)
    to = {"3": 5, 5: "3"}
    some = load_data("digits", label_noise={"share": 0.5, "kind": "asymmetric", "to": to})
    off = wrong(some)
    assert set(own[off].tolist()) == {3, 5}
    assert set((own[off] + labels(some)[off]).tolist()) == {8}
    among = int(((own == 3) | (own == 5)).sum())
    assert int(off.sum()) == round(0.5 * among)


def test_seeds_decide_and_the_fingerprint_tells():
    def bundle(**noise):
        return load_data("digits", label_noise={"share": 0.2, **noise})

    one, again, other = bundle(), bundle(), bundle(seed=1)
    assert torch.equal(labels(one), labels(again))
    assert one.fingerprint() == again.fingerprint()
    assert not torch.equal(one.relabelled, other.relabelled)
    prints = {b.fingerprint() for b in (one, other, load_data("digits"), bundle(kind="asymmetric"))}
    assert len(prints) == 4


def test_no_noise_is_the_very_same_data():
    assert load_data("digits", label_noise=0).fingerprint() == load_data("digits").fingerprint()


def test_samples_without_a_label_get_none():
    bundle = load_data("digits", labels_per_class=5, label_noise=0.2)
    view = bundle.splits["train"]
    assert int((view.targets != IGNORE).sum()) == 50
    assert len(bundle.relabelled) == 10
    assert "10 of 50 training labels replaced" in bundle.describe()


def test_a_fold_has_the_labels_of_the_whole():
    whole = load_data("digits", label_noise=0.3)
    by_position = dict(zip(whole.splits["train"].indices.tolist(), labels(whole), strict=True))
    seen = 0
    for fold in range(3):
        part = load_data("digits", label_noise=0.3, leave_out={"fold": fold, "of": 3})
        view = part.splits["train"]
        pairs = zip(view.indices.tolist(), view.targets, strict=True)
        assert all(by_position[k] == y for k, y in pairs)
        assert torch.isin(part.relabelled, view.indices).all()
        seen += len(part.relabelled)
    assert seen == 2 * len(whole.relabelled)


@pytest.mark.parametrize(
    ("noise", "line"),
    [
        (1.2, r"label_noise.share: expected a share of the labels in \[0, 1\], got 1.2"),
        (math.nan, r"label_noise.share: .*got nan"),
        (True, r"label_noise.share: .*got True"),
        ({}, r"label_noise.share: .*got None"),
        ({"shar": 0.2}, "label_noise: unknown key 'shar': did you mean 'share'"),
        ({"share": 0.2, "kind": "symetric"}, "label_noise.kind: .*did you mean 'symmetric'"),
        ({"share": 0.2, "seed": -1}, "label_noise.seed: expected a whole number of at least 0"),
        ({"share": 0.2, "validation": 1}, "label_noise.validation: expected true or false, got 1"),
        ({"share": 0.2, "to": {3: 5}}, "label_noise.to: belongs to kind: asymmetric, got kind: sy"),
        ({"share": 0.2, "kind": "asymmetric", "to": [3]}, r"to: expected a mapping .* got \[3\]"),
        ({"share": 0.2, "kind": "asymmetric", "to": {3: 11}}, "to: unknown class '11'"),
        ({"share": 0.2, "kind": "asymmetric", "to": {3: "3"}}, "to: class '3' is taken for itself"),
    ],
)
def test_what_is_no_noise_is_refused(noise, line):
    with pytest.raises(RecipeError, match=line) as caught:
        load_data("digits", label_noise=noise)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_tasks_without_classes_are_refused(task):
    x = torch.rand(40, 3)
    with pytest.raises(RecipeError, match=f"label_noise: replaces classes; the task is {task}"):
        bundle_from((x, x.round()), task=task, label_noise=0.2)


def test_one_class_has_no_wrong_one():
    x = torch.rand(40, 3)
    with pytest.raises(RecipeError, match="needs at least two classes, the data have one"):
        bundle_from((x, torch.zeros(40).long()), label_noise=0.2)
