"""Mixup: a function of seed, view and sample; the same for the loader and for a cache."""

import pytest
import torch

from limbeck.data import bundle_from, load_data
from limbeck.data.augment import Augment
from limbeck.data.loader import batches
from limbeck.data.mixing import PART, PARTNER, shown
from limbeck.data.samples import TensorSamples
from limbeck.data.seeds import counter_integers, counter_uniform
from limbeck.data.view import View
from limbeck.errors import MethodError, RecipeError, ShapeError, TeacherError
from limbeck.teachers.cache.drawing import drawn
from limbeck.teachers.visits import Visits


def view_of(inputs, count=12):
    targets = torch.arange(len(inputs)) % 3
    return View.of(TensorSamples(inputs, targets), torch.arange(count) + 2)


@pytest.fixture
def view():
    return view_of(torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0)))


def test_each_sample_is_its_own_and_anothers(view):
    augment, index = Augment([{"mixup": 0.5}]), view.indices[[3, 0, 7]]
    (batch,) = shown(view, [index], augment, seed=5, number=2)
    parts = 0.5 * counter_uniform(5, 2, index, PART)
    others = view.indices[counter_integers(5, 2, index, PARTNER, len(view))]
    for row in range(3):
        own, other, part = view.at(index).inputs[row], view.at(others).inputs[row], parts[row]
        torch.testing.assert_close(batch.inputs[row], (1 - part) * own + part * other)
    assert set(others.tolist()) <= set(view.indices.tolist())
    assert (parts < 0.5).all()


def test_both_are_augmented_before_they_are_mixed(view):
    steps = ["flip", {"crop": 1}, {"normalize": {"mean": [0.3], "std": [0.5]}}]
    augment, index = Augment([*steps, {"mixup": 0.4}]), view.indices
    (batch,) = shown(view, [index], augment, seed=1, number=3)
    plain = Augment(steps)
    others = view.indices[counter_integers(1, 3, index, PARTNER, len(view))]
    a, b = (plain(view.at(i).inputs, i, seed=1, view=3) for i in (index, others))
    part = 0.4 * counter_uniform(1, 3, index, PART).view(-1, 1, 1, 1)
    torch.testing.assert_close(batch.inputs, (1 - part) * a + part * b)


def test_a_mixture_depends_on_seed_view_and_sample_alone(view):
    augment = Augment([{"mixup": 0.5}])
    (whole,) = shown(view, [view.indices], augment, seed=5, number=2)
    pieces = shown(view, list(view.indices.split(5)), augment, seed=5, number=2)
    assert torch.equal(torch.cat([piece.inputs for piece in pieces]), whole.inputs)
    for seed, number in ((6, 2), (5, 3)):
        (other,) = shown(view, [view.indices], augment, seed=seed, number=number)
        assert not torch.equal(other.inputs, whole.inputs)


def test_a_mixture_has_no_label(view):
    options = {"batch_size": 4, "seed": 0, "epoch": 0}
    for (batch,) in batches(view, augment=Augment([{"mixup": 0.5}]), **options):
        assert (batch.targets == -100).all()
        assert batch.label_share == 0.0
    for (batch,) in batches(view, augment=Augment([{"mixup": 0}]), **options):
        assert (batch.targets >= 0).all()
        assert batch.label_share == 1.0
    numbers = View.of(TensorSamples(torch.rand(6, 2), torch.rand(6, 1)))
    (batch,) = shown(numbers, [numbers.indices], Augment([{"mixup": 0.5}]), seed=0, number=0)
    assert torch.isnan(batch.targets).all()


def test_a_cache_draws_what_the_loader_draws():
    data = load_data("digits", num_train=32, augment=[{"crop": 1}, {"mixup": 0.5}])
    train, seen = data.splits["train"], {}
    for (batch,) in batches(train, batch_size=8, seed=7, epoch=1, augment=data.augment_train):
        seen |= dict(zip(batch.index.tolist(), batch.inputs, strict=True))
    visits = Visits(seed=7, views=2, epochs=2, rows=8)
    for batch in drawn(data, visits, list(train.indices.split(8)), view=1):
        assert all(
            torch.equal(seen[i], x) for i, x in zip(batch.index.tolist(), batch.inputs, strict=True)
        )
    assert data.augment_train.is_random
    assert {"mixup": 0.5} in data.augment_train.spec
    assert Augment(data.augment_train.spec) == data.augment_train
    assert not data.augment_eval.steps.mixup


def test_what_cannot_be_mixed():
    with pytest.raises(RecipeError, match=r"mixup: expected a share in \[0, 1\], got 2"):
        Augment([{"mixup": 2}])
    with pytest.raises(RecipeError, match=r"mixup: expected a number >= 0, got 'much'"):
        Augment([{"mixup": "much"}])
    named = bundle_from(({"ids": torch.ones(6, 2)}, torch.arange(6) % 2), num_classes=2)
    samples = named.splits["train"]
    with pytest.raises(ShapeError, match=r"augmentation: expected uint8 or float|mixup: mixes"):
        next(shown(samples, [samples.indices], Augment([{"mixup": 0.5}]), seed=0, number=0))


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("nkd", "mixup leaves no sample its label, which method nkd needs; leave mixup out"),
        ("plain", "mixup leaves no sample its label, which method plain needs"),
        ("deit", "mixup leaves no sample its label, which method deit needs"),
        (["kd", "kcd"], "mixup, and method kcd which chooses samples, cannot go together"),
    ],
)
def test_methods_that_mixtures_cannot_serve(method, line):
    from limbeck.recipe import load_recipe
    from limbeck.recipe.checks import check_data

    teacher = {"model": "cnn", "weights": "random"}
    content = {"data": "digits", "student": "cnn", "teacher": teacher, "method": method}
    data = load_data("digits", num_train=32, augment=[{"mixup": 0.5}])
    with pytest.raises(MethodError, match=line):
        check_data(load_recipe(content), data)
    content["method"] = "kd"
    warned = "data.augment: mixed samples have no label: the task term counts nothing"
    assert check_data(load_recipe(content), data) == [warned]
    assert check_data(load_recipe({**content, "task": {"weight": 0}}), data) == []


def test_a_mixture_has_no_clean_view():
    from limbeck.teachers.cache import refuse_nothing_to_save

    data = load_data("digits", num_train=32, augment=[{"mixup": 0.5}])
    with pytest.raises(TeacherError, match=r"teachers\.big\.inputs: mixup mixes samples"):
        refuse_nothing_to_save("big", data, "clean", None)
    with pytest.raises(TeacherError, match="there is nothing to save"):
        refuse_nothing_to_save("big", data, "views", None)
    refuse_nothing_to_save("big", data, "views", 4)
