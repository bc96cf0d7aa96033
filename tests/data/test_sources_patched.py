"""Patched digits: squares, groups and masks belong together, and parts differ as told."""

import pytest
import torch

from limbeck.data import bundle_from, load_data
from limbeck.engine.evaluate import score
from limbeck.errors import DataError, RecipeError


def whole(bundle, part):
    view = bundle.splits[part]
    return view.fetch(torch.arange(len(view)))


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_the_square_lies_where_groups_and_masks_say(part):
    bundle, plain = load_data("patched-digits", images="digits"), load_data("digits")
    batch, groups, masks = whole(bundle, part), bundle.groups[part], bundle.masks[part]
    before = whole(plain, part)
    assert torch.equal(batch.targets, (before.targets >= 5).long())
    assert torch.equal(groups // 2, batch.targets)
    assert len(masks) == len(batch)
    for image, was, group, mask in zip(batch.inputs, before.inputs, groups, masks, strict=True):
        columns = slice(0, 2) if group % 2 == 0 else slice(6, 8)
        expected = was[0].clone()
        expected[:2, columns] = 1
        assert torch.equal(image[0], expected)
        assert mask.sum() == 4
        assert mask[:2, columns].all()


@pytest.mark.parametrize("agreement", [0.0, 0.7, 1.0])
def test_the_square_agrees_as_often_as_told_in_train_alone(agreement):
    bundle = load_data("patched-digits", images="digits", agreement=agreement)
    train, test = bundle.groups["train"], bundle.groups["test"]
    share = float((train // 2 == train % 2).double().mean())
    assert share == pytest.approx(agreement, abs=4 * (0.25 / len(train)) ** 0.5)
    by_lot = float((test // 2 == test % 2).double().mean())
    assert by_lot == pytest.approx(0.5, abs=4 * (0.25 / len(test)) ** 0.5)
    count = round(share * len(train))
    assert f"the patch agrees with {count:,} of {len(train):,} training labels" in bundle.describe()


def test_real_images(shared_data):
    bundle = load_data("patched-digits", root=str(shared_data), agreement=1.0)
    assert {part: len(view) for part, view in bundle.splits.items()} == {
        "train": 12_000,
        "validation": 5_000,
        "test": 10_000,
    }
    first = whole(bundle, "test").inputs[0, 0]
    assert first[bundle.masks["test"][0]].eq(255).all()
    assert bundle.masks["test"][0].sum() == 16
    assert set(bundle.groups["train"].tolist()) == {0, 3}
    assert set(bundle.groups["validation"].tolist()) == {0, 1, 2, 3}


def test_the_same_image_keeps_its_square():
    few = load_data("patched-digits", images="digits", num_train=100)
    many = load_data("patched-digits", images="digits", agreement=0.95)
    places = {int(k): row for row, k in enumerate(many.splits["train"].indices)}
    rows = [places[int(k)] for k in few.splits["train"].indices]
    assert torch.equal(few.masks["train"], many.masks["train"][rows])
    other = load_data("patched-digits", images="digits", patch_seed=1)
    assert other.fingerprint() != many.fingerprint()


def test_options_of_every_source_reach_it():
    options = {"label_noise": 0.1, "imbalance": 3, "leave_out": {"fold": 0, "of": 2}}
    bundle = load_data("patched-digits", images="digits", **options)
    train = bundle.splits["train"]
    assert len(bundle.groups["train"]) == len(bundle.masks["train"]) == len(train)
    off = torch.isin(train.indices, bundle.relabelled)
    assert torch.equal(bundle.groups["train"] // 2 != train.targets, off)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"images": "minst"}, "unknown images 'minst': did you mean 'mnist'"),
        ({"agreement": 1.5}, r"agreement: expected a share in \[0, 1\], got 1.5"),
        ({"patch": 5}, "patch: expected 1 to 4 pixels, got 5"),
        ({"patch": 0}, "patch: expected 1 to 4 pixels, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(options, line):
    with pytest.raises(RecipeError, match=line):
        load_data("patched-digits", **{"images": "digits", **options})


def test_groups_and_masks_of_ones_own_data_follow_the_cuts():
    x, y = torch.arange(60.0)[:, None], torch.arange(60) % 2
    groups, masks = torch.arange(60), torch.arange(60.0)[:, None, None]
    bundle = bundle_from((x, y), groups={"train": groups}, masks={"train": masks}, num_train=20)
    for part in ("train", "validation", "test"):
        assert torch.equal(bundle.groups[part], bundle.splits[part].indices)
        assert torch.equal(bundle.masks[part][:, 0, 0].long(), bundle.splits[part].indices)
    moved = bundle.with_train(bundle.splits["train"].select(torch.tensor([1])))
    assert set(moved.groups) == set(moved.masks) == {"validation", "test"}
    only_test = bundle_from((x, y), test=(x[:9], y[:9]), groups={"test": groups[:9]})
    assert set(only_test.groups) == {"test"}
    with pytest.raises(DataError, match="groups: 9 for 60 samples of 'train'"):
        bundle_from((x, y), groups={"train": groups[:9]})
    with pytest.raises(DataError, match="masks: unknown part 'tset': did you mean 'test'"):
        bundle_from((x, y), test=(x, y), masks={"tset": masks})


def test_the_worst_group_is_a_metric():
    logits = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1], [1, 0], [0, 1]])
    targets = torch.tensor([0, 1, 1, 1, -100, 0])
    groups = torch.tensor([0, 3, 3, 3, 2, 0])
    found = score("classification", logits, targets, groups=groups)
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["worst_group_accuracy"] == pytest.approx(1 / 2)
    assert "worst_group_accuracy" not in score("classification", logits, targets)
