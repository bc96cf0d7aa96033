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
        (["kd", "kcd"], "method kcd keeps a value of each sample and chooses by it; leave one of"),
        ("drkd", "method drkd repairs the teacher where it misses a sample's label; leave one of"),
        ("btkd", "method btkd repairs the teacher where it misses a sample's label"),
        ("ka", "method ka repairs the teacher where it misses a sample's label"),
        ({"name": "dtd", "adjust": "shift"}, r"method dtd repairs the teacher .*\(adjust\)"),
        ("wsld", "method wsld weighs each sample by both losses on its label"),
        ("camkd", r"method camkd weighs the teachers by .* label \(without shares\)"),
        ("crd", r"method crd remembers an embedding of each sample \(negatives: bank\)"),
        (
            {"name": "crd", "negatives": "batch"},
            r"method crd leaves out negatives of a sample's own class \(same_class: exclude\)",
        ),
        (["kd", "backward"], "method backward keeps moved copies of each sample"),
        (["kd", "chimeric"], "method chimeric makes labelled samples in the place of each"),
        ({"name": "sskd", "keep_turned": 0.5}, r"method sskd ranks .*\(keep_turned below 1\)"),
        ({"name": "ked", "teacher_view": "clean"}, r"method ked .*\(teacher_view: clean\)"),
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


@pytest.mark.parametrize(
    "method",
    [
        {"name": "dtd"},
        {"name": "camkd", "shares": [1.0]},
        {"name": "crd", "negatives": "batch", "same_class": "keep"},
        {"name": "sskd"},
        {"name": "ked"},
        {"name": "backward", "rounds": 0},
        {"name": "chimeric", "epochs": 0},
    ],
    ids=lambda method: method["name"],
)
def test_options_that_ask_for_no_single_sample_go_with_mixup(method):
    from limbeck.engine.checking import refuse_mixed
    from limbeck.methods import make_method

    data = load_data("digits", num_train=32, augment=[{"mixup": 0.5}])
    refuse_mixed([make_method("kd"), make_method(**method)], data)


def test_every_method_that_reads_labels_or_indexes_was_asked_about_mixtures():
    """What a method says of mixtures is a matter of its card; these read none of the two."""
    from limbeck.methods import all_methods

    seeds_alone = {"mlkd"}  # an index is a seed of its second view there, and no more
    for name, kind in all_methods().items():
        card = kind.card
        if (card.needs_index or card.bank or card.selects) and name not in seeds_alone:
            assert card.of_each_sample, name


def test_contrast_within_a_batch_of_mixtures_tells_them_apart(tmp_path):
    import limbeck as lb

    data = load_data("digits", num_train=64, augment=[{"mixup": 0.5}])
    teacher = lb.build_model("cnn", num_classes=10, input_shape=(1, 8, 8))
    student = lb.build_model("cnn", num_classes=10, input_shape=(1, 8, 8), channels=[4, 8])
    method = lb.CRD(negatives="batch", same_class="keep", dim=8)
    run = lb.distill(
        teacher=teacher, student=student, data=data, method=method,
        epochs=1, batch_size=16, output=tmp_path, quiet=True,
    )  # fmt: skip
    assert run.metrics["accuracy"] >= 0


def test_a_rule_over_labels_says_nothing_of_a_mixture():
    from limbeck.recipe import load_recipe
    from limbeck.recipe.checks import check_data
    from limbeck.teachers import VirtualTeacher

    line = r"teachers\.\w+: data\.augment has mixup, and a teacher that knows the labels only"
    data = load_data("digits", num_train=32, augment=[{"mixup": 0.5}])
    with pytest.raises(TeacherError, match=line):
        VirtualTeacher().bind(data, torch.device("cpu"))
    virtual = {"virtual": {"correct": 0.9}}
    recipe = {"data": "digits", "student": "cnn", "teacher": virtual, "method": "kd"}
    with pytest.raises(TeacherError, match=line):
        check_data(load_recipe(recipe), data)
