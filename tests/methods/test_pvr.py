"""PVR against gradients written out in float64, distillation as a loss, and SVRG."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
import torch
from method_runs import log_of, make_plan, run
from pvr_gradients import as_a_loss, bundle, gradients, linear, samples
from torch import Tensor, nn

import limbeck as lb
from limbeck.data import DataBundle, load_data
from limbeck.engine.settings import Optimizer
from limbeck.errors import MethodError
from limbeck.methods.kdvr import KDVR
from limbeck.models import build_model
from limbeck.teachers import CalibratedTeacher, EmaTeacher, LiveTeacher
from limbeck.teachers.virtual import VirtualTeacher

KINDS = ["classification", "multilabel", "regression"]
LAMBDAS = [0.0, 0.3, 0.7, 1.0, 1.6]


# The identity.


@pytest.mark.parametrize("lam", LAMBDAS)
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_linear_model_it_is_distillation_as_a_loss(kind, lam):
    student, teacher, batch = linear(0), linear(1), samples(kind)
    if kind == "regression":  # the engine's task term is not halved, nor averaged over outputs
        batch = (batch[0], 3 * batch[1])
    wanted = as_a_loss(kind, student, copy.deepcopy(teacher), batch, lam)
    found = gradients(lb.PVR(weight=lam), student, teacher, batch, task=kind)
    assert (found - wanted).abs().max() <= 1e-10


@pytest.mark.parametrize("tau", [2.0, 4.0])
def test_at_another_temperature_it_is_not(tau):
    student, teacher, batch = linear(0), linear(1), samples()
    wanted = as_a_loss("classification", student, copy.deepcopy(teacher), batch, 0.7, tau)
    found = gradients(lb.PVR(weight=0.7), student, teacher, batch)
    assert (found - wanted).abs().max() > 0.05


def test_on_another_model_it_is_the_teachers_own_jacobian():
    student, teacher, batch = linear(0, 5), linear(1, 5), samples()
    slope = [as_a_loss("classification", one, one, batch, 0.0) for one in (student, teacher)]
    found = gradients(lb.PVR(weight=0.7), student, teacher, batch)
    assert (found - (slope[0] - 0.7 * slope[1])).abs().max() <= 1e-12
    loss = as_a_loss("classification", student, teacher, batch, 0.7)
    assert (found - loss).abs().max() > 1e-3


def labelled_digits() -> DataBundle:
    return load_data("digits", num_train=96)


def lines(method: Any, folder: Any, model: str = "linear", **train: Any) -> list[Tensor]:
    """Weights after the whole loop, from a linear student and teacher on digits."""

    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return build_model("mlp", num_classes=10, input_shape=(1, 8, 8), widths=[])

    task_weight = train.pop("task_weight", None)
    plan = make_plan(method, data=labelled_digits(), task_weight=task_weight, **train)
    plan = dataclasses.replace(
        plan,
        make_student=lambda: network(5),
        teachers={"teacher": LiveTeacher(network(6))} if "plain" not in str(method) else {},
    )
    return [value.detach() for value in run(plan, folder).student.parameters()]


SGD = Optimizer(lr=0.05, momentum=0.0, weight_decay=0.0)


@pytest.mark.parametrize(
    "train",
    [
        {"optimizer": SGD},
        {"optimizer": Optimizer(lr=0.05, momentum=0.9, weight_decay=0.01)},
        {"optimizer": Optimizer(name="adamw", lr=0.01)},
        {"optimizer": SGD, "accumulate": 3, "batch_size": 17},
        {"optimizer": SGD, "clip_norm": 0.3},
    ],
    ids=["sgd", "momentum and decay", "adamw", "accumulation", "clipping"],
)
def test_whatever_the_optimiser_a_linear_run_is_that_of_the_loss(train, tmp_path):
    lam = 0.6
    found = lines(lb.PVR(weight=lam), tmp_path / "gradient", **train)
    loss = lb.KD(temperature=1.0, weight=lam)
    wanted = lines(loss, tmp_path / "loss", task_weight=1 - lam, **train)
    for one, other in zip(found, wanted, strict=True):
        # adam divides by gradients: rounding is not small against the smallest of them
        assert torch.allclose(one, other, atol=2e-5)


def test_without_weight_it_is_plain_training_to_the_bit(tmp_path):
    found = lines(lb.PVR(weight=0.0), tmp_path / "pvr")
    wanted = lines("plain", tmp_path / "plain")
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


# The student at the teacher.


@pytest.mark.parametrize("widths", [(), (5,)])
def test_a_student_at_its_teacher_has_no_gradient_at_lambda_1(widths):
    student = linear(0, *widths)
    assert (
        gradients(lb.PVR(weight=1.0), student, copy.deepcopy(student), samples()).abs().max() == 0
    )


MEASURING = [lb.PVR(weight=0.7, probe=1), KDVR(lam=0.7, probe=1)]


def probe(student: nn.Module, teacher: nn.Module, method: Any) -> dict[str, float]:
    batch = samples()
    distillation = lb.Distillation(student, teacher, method, example=batch)
    for _ in range(2):
        distillation(batch).backward()
        distillation.after_step()
    (runtime,) = distillation.runtimes[0]
    return dict(runtime.report())


def as_cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / one.norm() / other.norm())


@pytest.mark.parametrize("make", MEASURING, ids=["gradient", "loss"])
def test_the_cosine_of_true_and_approximated_gradient(make):
    student, teacher = linear(0, 5), linear(1, 5)
    same = probe(student, copy.deepcopy(student), make)
    assert same["gradient_cosine"] == pytest.approx(1, abs=1e-12)
    assert same["distance"] == 0
    assert same["weights_cosine"] == pytest.approx(1)
    other = probe(student, copy.deepcopy(teacher), make)
    wanted = as_a_loss("classification", student, teacher, samples(), 0.7)
    plain = as_a_loss("classification", student, teacher, samples(), 0.0)
    near = plain - 0.7 * as_a_loss("classification", teacher, teacher, samples(), 0.0)
    for key in ("gradient_cosine", "gradient_cosine_min", "gradient_cosine_max"):
        assert other[key] == pytest.approx(as_cosine(wanted, near), abs=1e-9)
    assert other["gradient_cosine"] < 0.999
    assert other["gradient_cosine_std"] == pytest.approx(0, abs=1e-6)
    gain = as_cosine(wanted, near) - as_cosine(wanted, plain)
    assert other["gradient_cosine_gain"] == pytest.approx(gain, abs=1e-9)
    assert abs(gain) > 0.01
    linear_too = probe(linear(0), linear(1), make)
    assert linear_too["gradient_cosine"] == pytest.approx(1, abs=1e-12)


def test_the_gradient_of_the_loss_is_compared_at_temperature_1_and_of_the_same_network():
    with pytest.raises(MethodError, match=r"method.temperature: expected 1 where probe .* 2.0"):
        KDVR(probe=5, temperature=2.0)
    with pytest.raises(MethodError, match=r"method kdvr: .* \[5, 6\] in teacher"):
        lb.Distillation(linear(0), linear(1, 5), KDVR(probe=5), example=samples())
    lb.Distillation(linear(0), linear(1, 5), KDVR(), example=samples())  # else any network will do


def test_measured_cosines_are_among_the_metrics_of_a_run(tmp_path):
    lines(KDVR(probe=1), tmp_path / "run", epochs=3, measure_train=2)
    told = [row["kdvr/gradient_cosine"] for row in log_of(tmp_path / "run", "epoch")]
    found = json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]["train"]
    assert found["gradient_cosine"] == pytest.approx(sum(told[1:]) / 2, abs=1e-12)
    assert {"gradient_cosine_gain", "nll", "accuracy"} <= set(found)
    assert "gradient_cosine_std" not in found


# λ over time, weight decay, labels.


def test_lambda_grows_to_its_limit_and_decays():
    decaying = lb.PVR(weight=0.5, growth=0.9)
    assert [round(decaying.lam_at(e), 6) for e in range(3)] == [0.5, 0.45, 0.405]
    assert lb.PVR(weight=0.9, growth=1.047, limit=1.0).lam_at(1) == pytest.approx(0.9423)
    assert lb.PVR(weight=0.9, growth=1.047, limit=1.0).lam_at(9) == 1.0
    assert lb.PVR(weight=1.5, growth=1.047, limit=1.0).lam_at(9) == 1.5  # never below its start


def test_the_schedule_scales_the_teachers_gradient():
    student, teacher, batch = linear(0), linear(1), samples()
    method = lb.PVR(weight=0.8, growth=0.5)
    distillation = lb.Distillation(student, teacher, method, example=batch)
    distillation(batch).backward()
    distillation.after_step()
    distillation.epoch_end()
    student.zero_grad()
    distillation(batch).backward()
    found = torch.cat([value.grad.flatten() for value in student.parameters()])
    wanted = as_a_loss("classification", student, copy.deepcopy(teacher), batch, 0.4)
    assert (found - wanted).abs().max() <= 1e-10


def test_the_teachers_weight_decay_is_part_of_its_gradient():
    student, teacher, batch = linear(0), linear(1), samples()
    theta = nn.utils.parameters_to_vector(teacher.parameters()).detach()
    without = gradients(lb.PVR(weight=0.5), student, teacher, batch)
    found = gradients(lb.PVR(weight=0.5, teacher_decay=0.1), student, teacher, batch)
    assert (found - (without - 0.5 * 0.1 * theta)).abs().max() <= 1e-12


def test_samples_without_a_label_count_for_nothing():
    student, teacher = linear(0), linear(1)
    inputs, targets = samples()
    targets[3:] = -100
    found = gradients(lb.PVR(weight=0.7), student, teacher, (inputs, targets))
    alone = gradients(lb.PVR(weight=0.7), student, teacher, (inputs[:3], targets[:3]))
    assert (found - alone).abs().max() <= 1e-12


def test_nothing_is_computed_where_there_are_no_gradients():
    student, batch = linear(0), samples()
    distillation = lb.Distillation(student, linear(1), lb.PVR(), example=batch)
    with torch.no_grad():
        distillation(batch)
    assert set(distillation.terms) == {"task", "loss"}


def test_the_teacher_is_left_as_it_was_and_asked_once(monkeypatch):
    teacher = LiveTeacher(linear(1))
    asked = []
    real = LiveTeacher.ask

    def counted(self: LiveTeacher, *arguments: Any, **more: Any) -> Any:
        asked.append(more)
        return real(self, *arguments, **more)

    batch = samples()
    distillation = lb.Distillation(linear(0), teacher, lb.PVR(), example=batch)
    monkeypatch.setattr(LiveTeacher, "ask", counted)
    distillation(batch).backward()
    assert len(asked) == 1
    theirs = list(teacher.module.parameters())
    assert all(value.grad is None and not value.requires_grad for value in theirs)
    distillation.deploy()
    assert all(value.requires_grad for value in theirs)


# In and out.


def test_distill_takes_it_by_name(tmp_path):
    torch.manual_seed(0)
    big, small = (build_model("mlp", num_classes=10, input_shape=(1, 8, 8)) for _ in range(2))
    done = lb.distill(
        big,
        small,
        data=labelled_digits(),
        method="pvr",
        epochs=1,
        output=tmp_path / "run",
        quiet=True,
    )
    (epoch,) = log_of(tmp_path / "run", "epoch")
    assert epoch["pvr/distance"] > 0
    assert done.metrics["accuracy"] > 0


def test_measuring_the_cosine_changes_no_weight(tmp_path):
    found = lines(lb.PVR(), tmp_path / "without")
    probed = lines(lb.PVR(probe=2), tmp_path / "with")
    assert all(torch.equal(one, other) for one, other in zip(found, probed, strict=True))
    told = log_of(tmp_path / "with", "epoch")[-1]["pvr/gradient_cosine"]
    assert told == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("teacher", "line"),
    [
        (lambda: linear(1, 5), r"0.weight is \[4, 6\] in the student, \[5, 6\] in teacher"),
        (
            lambda: nn.Sequential(nn.Flatten(), linear(1)),
            r"0.weight is \[4, 6\] in the student, nothing in teacher 'teacher'",
        ),
        (lambda: VirtualTeacher(correct=0.9), r"asks teacher .* for parameter_gradients"),
        (lambda: [linear(1), linear(2)], r"method pvr: "),
    ],
    ids=["other widths", "other names", "virtual", "an ensemble"],
)
def test_another_teacher_is_refused_in_one_line(teacher, line):
    with pytest.raises(MethodError, match=line) as caught:
        lb.Distillation(linear(0), teacher(), lb.PVR(), example=samples())
    assert "\n" not in str(caught.value)


def test_the_unbiased_form_says_what_it_cannot_do():
    batch = samples()
    with pytest.raises(MethodError, match=r"unbiased=True .* pass data="):
        lb.Distillation(linear(0), linear(1), lb.PVR(unbiased=True), example=batch)
    with pytest.raises(MethodError, match=r"changes in every step; use a snapshot"):
        lb.Distillation(
            linear(0), EmaTeacher(0.9), lb.PVR(unbiased=True), example=batch, data=bundle()
        )


def test_a_calibrated_teacher_is_differentiated_through_its_temperature():
    student, teacher, batch = linear(0), linear(1), samples()
    warm = CalibratedTeacher(LiveTeacher(copy.deepcopy(teacher)), temperature=2.0)
    found = gradients(lb.PVR(weight=0.5), student, warm, batch)
    halved = copy.deepcopy(teacher)
    with torch.no_grad():
        for value in halved.parameters():
            value.div_(2)
    ours = as_a_loss("classification", student, teacher, batch, 0.0)
    theirs = as_a_loss("classification", halved, halved, batch, 0.0) / 2
    assert (found - (ours - 0.5 * theirs)).abs().max() <= 1e-12


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("weight", -0.1, "at least 0"),
        ("teacher_decay", -1.0, "at least 0"),
        ("growth", 0.0, "above 0"),
        ("limit", 0.0, "above 0"),
        ("probe", -1, "at least 0"),
    ],
)
def test_bad_values_are_named(key, value, expected):
    with pytest.raises(MethodError, match=rf"method.{key}: expected .*{expected}.*\(pvr\)"):
        lb.PVR(**{key: value})
