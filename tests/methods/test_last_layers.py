"""SimKD and SRRL: the teacher's classifier, used again."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from feature_runs import prepare
from method_runs import log_of, make_cnn, make_plan, run, same_weights, teacher_network
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from limbeck.data.batch import Batch
from limbeck.engine import distiller
from limbeck.engine.running import run_plan
from limbeck.engine.signals import Interrupted
from limbeck.errors import MethodError, ShapeError, TeacherError
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.models import build_model, load_model, model_spec
from limbeck.taps import tapping
from limbeck.taps.outputs import Outputs

NAMES = ("simkd", "srrl")


def built(name: str, size: int = 16, **arguments):
    torch.manual_seed(3)
    return build_model(name, num_classes=10, input_shape=(1, size, size), **arguments)


def at_work(name, student, teacher, size=16, **arguments):
    """The runtime, and what both networks say about three images."""
    runtime = prepare(make_method(name, **arguments), student.eval(), teacher.eval(), size)
    inputs = torch.rand(3, 1, size, size)
    said, heard = (
        answer(network, taps, inputs)
        for network, taps in (
            (student, runtime.student_taps()),
            (teacher, runtime.teacher_taps()),
        )
    )
    return runtime.eval(), said, heard, inputs


def answer(network, taps, inputs):
    with tapping(network, list(taps)) as store:
        logits = network(inputs)
    return Outputs(logits, dict(store))


def test_simkd_is_the_error_of_the_projected_maps_at_the_smaller_size():
    student, teacher = make_cnn(4, 6), built("resnet8")  # 8x8 against 4x4
    runtime, said, heard, inputs = at_work("simkd", student, teacher)
    with tapping(student, "stages.1.inner") as store:
        student(inputs)
    projector = student.stages[1] and student.get_submodule("stages.1.part")
    pooled = adaptive_avg_pool2d(store["stages.1.inner"], (4, 4))
    gap = projector.transfer(pooled) - heard.features[".layer3"]
    value = runtime.losses(said, heard, Batch(inputs=inputs), Context())["simkd"]
    torch.testing.assert_close(value, gap.square().mean())
    assert [m.out_channels for m in projector.transfer if isinstance(m, nn.Conv2d)] == [32, 32, 64]


def test_simkd_answers_through_the_teachers_classifier():
    student, teacher = built("resnet8"), built("vgg8", 16)
    runtime, said, _, _ = at_work("simkd", student, teacher)
    mean = said.features[runtime.student_taps()[0]].mean(dim=(2, 3))
    torch.testing.assert_close(said.logits, teacher.linear(mean))
    assert not any(p.requires_grad for p in student.linear.parameters())
    assert student.linear is not teacher.linear
    assert all(p.requires_grad for p in teacher.linear.parameters())


def test_a_student_whose_maps_are_the_teachers_answers_as_the_teacher():
    student, teacher = built("resnet8"), built("vgg8", 16)
    runtime, _, heard, inputs = at_work("simkd", student, teacher)
    (tap,) = runtime.student_taps()
    theirs = adaptive_avg_pool2d(next(iter(heard.features.values())), tuple(runtime.size))
    perfect = Outputs(torch.zeros(3, 10), {tap: theirs.detach()})
    value = runtime.losses(perfect, heard, Batch(inputs=inputs), Context())["simkd"]
    assert float(value) == 0
    answer = student.linear(perfect.features[tap].mean(dim=(2, 3)))
    torch.testing.assert_close(answer, heard.logits)


def test_srrl_is_two_squared_errors():
    student, teacher = make_cnn(4, 6), built("resnet8")
    runtime, said, heard, inputs = at_work("srrl", student, teacher, logits_weight=0.5)
    mapped = runtime.connector(said.features[".stages.1"]).mean(dim=(2, 3))
    theirs = heard.features[".layer3"].mean(dim=(2, 3))
    terms = runtime.losses(said, heard, Batch(inputs=inputs), Context())
    torch.testing.assert_close(terms["srrl"], (mapped - theirs).square().mean())
    through = (teacher.linear(mapped) - heard.logits).square().mean()
    torch.testing.assert_close(terms["srrl_logits"], 0.5 * through)
    assert not any(p.requires_grad for p in runtime.head.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_vectors_where_one_of_the_networks_has_no_maps(name):
    def vit():
        return built("vit", dim=8, depth=2, heads=2, patch=4)

    for student, teacher in ((vit(), built("resnet8")), (built("resnet8"), vit())):
        runtime, said, heard, inputs = at_work(name, student, teacher)
        terms = runtime.losses(said, heard, Batch(inputs=inputs), Context())
        assert all(torch.isfinite(value) for value in terms.values())
        assert next(iter(heard.features.values())).ndim == 2


def test_the_classifier_stays_as_it_is_while_the_student_learns(tmp_path):
    spec = model_spec("cnn", num_classes=10, input_shape=(1, 8, 8), channels=[4, 8])
    plan = dataclasses.replace(make_plan("simkd"), student_spec=spec)
    outcome = run(plan, tmp_path / "run")
    assert torch.equal(outcome.student.head.weight, teacher_network().head.weight)
    again, inputs = load_model(tmp_path / "run" / "student"), torch.rand(3, 1, 8, 8)
    assert torch.equal(again(inputs), outcome.student(inputs))
    first, *_, last = log_of(tmp_path / "run")
    assert last["simkd"] < first["simkd"]
    assert "task" not in first  # the task has weight 0


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_equals_an_undisturbed_one(name, tmp_path):
    whole = run(make_plan(name), tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distiller.Distiller, "_asked", lambda self: self.position.step >= 5)
        with pytest.raises(Interrupted):
            run(make_plan(name), tmp_path / "cut")
    resumed = run_plan(make_plan(name), tmp_path / "cut", resume=True, quiet=True)
    assert same_weights(whole.student, resumed.student)
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")


# What cannot be.


class Fixed(nn.Module):
    """Its way from maps to classifier takes one width alone."""

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.linear = nn.Conv2d(1, 6, 3), nn.Linear(6, 10)

    def forward(self, inputs):
        return self.linear(self.maps(inputs).reshape(len(inputs), 6, -1).mean(dim=2))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maps, self.linear = nn.Conv2d(1, 6, 3), nn.Linear(6, 10)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, inputs):
        return self.linear(self.maps(inputs).mean(dim=(2, 3)) * self.scale)


@pytest.mark.parametrize("kind", [Fixed, Scaled])
def test_a_way_to_the_classifier_that_takes_one_width_alone_is_refused(kind):
    line = r"does not take the teacher's 64 channels; name .*\(pairs: penultimate\)"
    with pytest.raises(ShapeError, match=line):
        prepare(make_method("simkd"), kind(), built("resnet8"))
    prepare(make_method("simkd", pairs="penultimate"), kind(), built("resnet8"))


@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_that_does_not_read_the_layer_is_refused(name):
    method = make_method(name, pairs=(("stages.0", "stages.0"),))
    with pytest.raises(TeacherError, match=r"linear layer of the 16 channels .*pairs: penultimate"):
        prepare(method, make_cnn(4, 6), built("resnet8"))


@pytest.mark.parametrize("name", NAMES)
def test_one_pair_of_one_form(name):
    with pytest.raises(MethodError, match=r"method\.pairs: expected one pair, .* got 3"):
        prepare(make_method(name, pairs="stages"), built("resnet8"), built("resnet8"))
    method = make_method(name, pairs=(("stages.0", "penultimate"),))
    with pytest.raises(ShapeError, match="maps of both or vectors of both; name layers that fit"):
        prepare(method, built("resnet8"), built("resnet8"))


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("simkd", {"factor": 0}, r"method\.factor: expected a whole number of at least 1"),
        ("srrl", {"logits_weight": -1}, r"method\.logits_weight: expected a number of at least 0"),
    ],
)
def test_settings_out_of_range_are_one_line(name, arguments, line):
    with pytest.raises(MethodError, match=line):
        make_method(name, **arguments)
