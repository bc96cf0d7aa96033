"""MLKD: three levels against plain loops, two views of one batch, and the authors' sum."""

import math

import pytest
import torch
from functional_references import naive_kl, naive_softmax
from method_runs import log_of, make_plan, run, same_weights

from limbeck import functional as lf
from limbeck.data.augment import Augment
from limbeck.data.batch import Batch
from limbeck.engine.distributed import World
from limbeck.engine.setup import assemble, example_batch
from limbeck.errors import MethodError
from limbeck.methods import make_method
from limbeck.methods.context import Context


def gram(rows):
    return [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]


def naive_correlation(student, teacher, temperature, of_classes):
    sides = []
    for logits in (student, teacher):
        probs = [naive_softmax(row, temperature) for row in logits.tolist()]
        sides.append(gram([list(c) for c in zip(*probs, strict=True)] if of_classes else probs))
    pairs = zip(*sides, strict=True)
    total = sum((a - b) ** 2 for x, y in pairs for a, b in zip(x, y, strict=True))
    return total / len(sides[0])


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (1, 3)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_correlations(shape, temperature):
    pair = [3 * torch.randn(*shape, dtype=torch.float64) for _ in range(2)]
    samples = lf.batch_correlation(*pair, temperature=temperature)
    classes = lf.class_correlation(*pair, temperature=temperature)
    assert float(samples) == pytest.approx(naive_correlation(*pair, temperature, False), rel=1e-10)
    assert float(classes) == pytest.approx(naive_correlation(*pair, temperature, True), rel=1e-10)


@pytest.mark.parametrize("form", [lf.batch_correlation, lf.class_correlation])
@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
def test_correlations_have_the_numerical_gradient_and_vanish_at_equality(form, shape):
    student = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(*shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: form(s, teacher), student)
    same = form(student, student.detach().clone())
    assert float(same.detach()) == 0
    assert float(torch.autograd.grad(same, student)[0].abs().max()) <= 1e-15


def naive_levels(student, teacher, heats):
    instance = sum(math.fsum(naive_kl(student, teacher, t)) / len(student) for t in heats)
    batch, classes = (
        sum(naive_correlation(student, teacher, t, of_classes) for t in heats)
        for of_classes in (False, True)
    )
    return instance, batch, classes


def test_levels_are_summed_over_temperatures_and_views():
    weak, strong, weak_t, strong_t = (2 * torch.randn(5, 4).double() for _ in range(4))
    method = make_method("mlkd", temperatures=(2.0, 5.0), instance=0.5, batch=3.0, classes=7.0)
    found = method.of_two_views(torch.cat([weak, strong]), torch.cat([weak_t, strong_t]))
    views = [naive_levels(s, t, (2, 5)) for s, t in ((weak, weak_t), (strong, strong_t))]
    for position, (name, share) in enumerate({"instance": 0.5, "batch": 3, "classes": 7}.items()):
        expected = share * sum(view[position] for view in views)
        assert float(found[f"mlkd_{name}"]) == pytest.approx(expected, rel=1e-10)


def test_the_authors_sum():
    weak, strong, weak_t, strong_t = (2 * torch.randn(5, 4).double() for _ in range(4))
    found = make_method("mlkd", form="code").of_two_views(
        torch.cat([weak, strong]), torch.cat([weak_t, strong_t])
    )
    instance, batch, classes = naive_levels(weak, weak_t, (2, 3, 4, 5, 6))
    second = naive_levels(weak, weak_t, (2, 6))[0] + naive_levels(strong, strong_t, (3, 4, 5))[0]
    samples = 3 / 5  # the median of five is one of them
    assert float(found["mlkd_instance"]) == pytest.approx(samples * instance + second, rel=1e-10)
    assert float(found["mlkd_batch"]) == pytest.approx(samples * batch, rel=1e-10)
    assert float(found["mlkd_classes"]) == pytest.approx(classes / 2, rel=1e-10)


def batch_of(count=6):
    images = torch.rand(count, 1, 8, 8)
    return Batch(inputs=images, targets=torch.arange(count) % 3, index=torch.arange(count) + 11)


def runtime_of(**options):
    return make_method("mlkd", **options).prepare(torch.nn.Identity(), {}, None, Context())


def test_the_second_view_follows_the_first():
    batch, context = batch_of(), Context(seed=3, epoch=2)
    both = runtime_of(noise=0.0).batch(batch, context)
    assert torch.equal(both.inputs[:6], batch.inputs)
    assert not torch.equal(both.inputs[6:], batch.inputs)
    assert both.targets.tolist() == [0, 1, 2, 0, 1, 2] * 2
    assert both.index.tolist() == [*range(11, 17)] * 2
    assert both.changed.tolist() == [False] * 6 + [True] * 6
    assert both.draw is None
    blanked = (both.inputs[6:] == 0).flatten(1).sum(1)
    assert ((blanked >= 1) & (blanked < 64)).all()


def test_a_view_depends_on_seed_epoch_and_sample_alone():
    batch, runtime = batch_of(), runtime_of()
    whole = runtime.batch(batch, Context(seed=3, epoch=2)).inputs[6:]
    order = torch.tensor([4, 1, 5])
    part = batch.replace(inputs=batch.inputs[order], targets=None, index=batch.index[order])
    assert torch.equal(runtime.batch(part, Context(seed=3, epoch=2)).inputs[3:], whole[order])
    for other in (Context(seed=4, epoch=2), Context(seed=3, epoch=1)):
        assert not torch.equal(runtime.batch(batch, other).inputs[6:], whole)
    # and its draws are not those of the augmentation of the data
    same = Augment([{"rotate": 15.0}, {"cutout": 2}, {"noise": 0.1}])
    assert not torch.equal(same(batch.inputs, batch.index, seed=3, view=2), whole)


def test_one_view_where_there_is_nothing_to_change():
    runtime = runtime_of(rotate=0.0, cutout=0.0, noise=0.0)
    batch = batch_of()
    assert runtime.batch(batch, Context()) is batch


@pytest.mark.parametrize(
    ("inputs", "line"),
    [
        (torch.rand(4, 5), r"rotate and cutout need images .*\[4, 5\]; set method\.rotate=0 and"),
        ({"ids": torch.ones(4, 5)}, r"not one tensor of floats; set method\.rotate=0"),
        (torch.ones(4, 5, dtype=torch.int64), "not one tensor of floats"),
    ],
)
def test_inputs_that_cannot_be_seen_a_second_way(inputs, line):
    batch = Batch(inputs=inputs, index=torch.arange(4))
    with pytest.raises(MethodError, match=line):
        runtime_of().batch(batch, Context())
    rows = Batch(inputs=torch.rand(4, 5), index=torch.arange(4))
    noise = runtime_of(rotate=0.0, cutout=0.0)
    assert len(noise.batch(rows, Context())) == 8
    with pytest.raises(MethodError, match="second view of a teacher's own inputs"):
        noise.batch(rows.replace(teacher_inputs=torch.rand(4, 5)), Context())


def test_both_networks_are_asked_about_both_views_and_the_task_term_is_their_mean():
    plan = make_plan("mlkd", wide=True)
    parts = assemble(plan, World())
    batch = example_batch(plan, torch.device("cpu"), 12)
    batch = parts.runtimes[0].batch(batch, parts.ctx)
    parts.module.eval()
    _, terms = parts.module(batch, parts.stages[0])
    student, teacher = parts.student(batch.inputs), plan.teachers["teacher"].module(batch.inputs)
    expected = parts.runtimes[0].method.of_two_views(student, teacher)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value.detach(), rtol=1e-9, atol=1e-12)
    task = lf.cross_entropy(student, batch.targets).detach()
    torch.testing.assert_close(terms["task"], task, rtol=1e-6, atol=0)
    parts.close()


def test_a_run_is_a_function_of_its_seed(tmp_path):
    first, second = (run(make_plan("mlkd", epochs=1), tmp_path / name) for name in "ab")
    assert same_weights(first.student, second.student)
    assert {"mlkd_instance", "mlkd_batch", "mlkd_classes"} <= set(log_of(tmp_path / "a")[0])


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"temperatures": ()}, "temperatures"),
        ({"temperatures": (2.0, 0.0)}, "temperatures"),
        ({"instance": -1.0}, "instance"),
        ({"cutout": 2.0}, "cutout"),
        ({"form": "coed"}, "form"),
        ({"form": "code", "rotate": 0.0, "cutout": 0.0, "noise": 0.0}, "form"),
    ],
)
def test_bad_values(change, key):
    with pytest.raises(MethodError, match=rf"method\.{key}: expected"):
        make_method("mlkd", **change)
