"""PVR against gradients written out in float64, distillation as a loss, and SVRG."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from typing import Any

import pytest
import torch
from method_runs import log_of, make_plan, run, same_weights
from torch import Tensor, nn

import limbeck as lb
from limbeck.data import DataBundle, bundle_from, load_data
from limbeck.engine import distiller
from limbeck.engine.plan import Plan
from limbeck.engine.running import run_plan
from limbeck.engine.settings import Optimizer
from limbeck.engine.signals import Interrupted
from limbeck.errors import MethodError
from limbeck.models import build_model
from limbeck.teachers import CalibratedTeacher, EmaTeacher, LiveTeacher, SnapshotTeacher
from limbeck.teachers.virtual import VirtualTeacher

KINDS = ["classification", "multilabel", "regression"]
LAMBDAS = [0.0, 0.3, 0.7, 1.0, 1.6]


def linear(seed: int, *widths: int) -> nn.Module:
    """A float64 network on 6 inputs with 4 outputs; linear without widths."""
    torch.manual_seed(seed)
    sizes = [6, *widths, 4]
    layers: list[nn.Module] = []
    for position, (before, after) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.Tanh()] if position else []
        layers.append(nn.Linear(before, after))
    made = nn.Sequential(*layers).double()
    with torch.no_grad():  # as outspoken as a trained network
        for value in made.parameters():
            value.mul_(3)
    return made


def samples(kind: str = "classification", count: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    if kind == "classification":
        return inputs, torch.randint(4, (count,), generator=generator)
    targets = torch.rand(count, 4, generator=generator, dtype=torch.float64)
    return inputs, targets.round() if kind == "multilabel" else targets


def gradients(method: lb.PVR, student: nn.Module, teacher: Any, batch: Any, **more: Any) -> Tensor:
    """The gradient that a loop of one's own sees, flat."""
    distillation = lb.Distillation(student, teacher, method, example=batch, **more)
    student.zero_grad()
    distillation(batch).backward()
    distillation.before_step()
    found = torch.cat([value.grad.flatten() for value in student.parameters()])
    distillation.deploy()
    return found


def as_a_loss(
    kind: str, student: nn.Module, teacher: nn.Module, batch: Any, lam: float, tau: float = 1.0
) -> Tensor:
    """The gradient of (1 - λ) task + λ τ² KL, written out."""
    inputs, targets = batch
    ours, theirs = student(inputs), teacher(inputs).detach()
    if kind == "classification":
        log_p = ours - ours.exp().sum(1, keepdim=True).log()
        task = -log_p[torch.arange(len(targets)), targets].mean()
        p, soft = theirs / tau, ours / tau
        p = p.exp() / p.exp().sum(1, keepdim=True)
        kl = (p * (p.log() - soft + soft.exp().sum(1, keepdim=True).log())).sum(1).mean()
    elif kind == "multilabel":
        p, q = 1 / (1 + (-ours).exp()), 1 / (1 + (-theirs).exp())
        task = -(targets * p.log() + (1 - targets) * (1 - p).log()).sum(1).mean()
        kl = (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()).sum(1).mean()
    else:
        task = ((ours - targets) ** 2).sum(1).mean()
        kl = ((ours - theirs) ** 2).sum(1).mean()
    loss = (1 - lam) * task + lam * tau**2 * kl
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(student.parameters()))])


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


def probe(student: nn.Module, teacher: nn.Module, lam: float = 0.7) -> dict[str, float]:
    batch = samples()
    method = lb.PVR(weight=lam, probe=1)
    distillation = lb.Distillation(student, teacher, method, example=batch)
    for _ in range(2):
        distillation(batch).backward()
        distillation.after_step()
    (runtime,) = distillation.runtimes[0]
    return dict(runtime.report())


def test_the_cosine_of_true_and_approximated_gradient():
    student, teacher = linear(0, 5), linear(1, 5)
    same = probe(student, copy.deepcopy(student))
    assert same["cosine"] == pytest.approx(1, abs=1e-12)
    assert same["distance"] == 0
    assert same["weights_cosine"] == pytest.approx(1)
    other = probe(student, copy.deepcopy(teacher))
    wanted = as_a_loss("classification", student, teacher, samples(), 0.7)
    near = as_a_loss("classification", student, teacher, samples(), 0.0)
    near = near - 0.7 * as_a_loss("classification", teacher, teacher, samples(), 0.0)
    cosine = float(wanted @ near / wanted.norm() / near.norm())
    for key in ("cosine", "cosine_min", "cosine_max"):
        assert other[key] == pytest.approx(cosine, abs=1e-9)
    assert other["cosine"] < 0.999
    assert other["cosine_std"] == pytest.approx(0, abs=1e-6)
    linear_too = probe(linear(0), linear(1))
    assert linear_too["cosine"] == pytest.approx(1, abs=1e-12)


# The unbiased form, and SVRG.


def bundle(kind: str = "classification", count: int = 23) -> DataBundle:
    part = samples(kind, count)
    return bundle_from(part, part, part, task=kind, num_classes=4)


@pytest.mark.parametrize("lam", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("widths", [(), (5,)])
def test_the_unbiased_form_averages_to_the_full_gradient(widths, lam):
    student, teacher, data = linear(0, *widths), linear(1, *widths), bundle()
    inputs, targets = samples(count=23)
    method = lb.PVR(weight=lam, unbiased=True)
    distillation = lb.Distillation(student, teacher, method, example=(inputs, targets), data=data)
    total = torch.zeros(sum(value.numel() for value in student.parameters())).double()
    for start in range(0, 23, 5):  # the last batch is smaller
        part = (inputs[start : start + 5], targets[start : start + 5])
        student.zero_grad()
        distillation(part).backward()
        flat = torch.cat([value.grad.flatten() for value in student.parameters()])
        total += flat * len(part[1]) / 23
    wanted = as_a_loss("classification", student, teacher, (inputs, targets), 0.0)
    assert (total - wanted).abs().max() <= 1e-12


@pytest.mark.parametrize("widths", [(), (5,)])
def test_lambda_1_with_snapshots_is_svrg(widths):
    """Against SVRG as Johnson and Zhang wrote it, with the same batches."""
    inputs, targets = samples(count=23)
    student = linear(0, *widths)
    reference = copy.deepcopy(student)
    distillation = lb.Distillation(
        student,
        SnapshotTeacher(every_epochs=2),
        lb.PVR(weight=1.0, unbiased=True),
        example=(inputs, targets),
        data=bundle(),
    )
    rate = 0.3
    optimizer = torch.optim.SGD(student.parameters(), lr=rate)
    cuts = [slice(start, start + 5) for start in range(0, 23, 5)]
    for _ in range(6):
        for cut in cuts:
            optimizer.zero_grad()
            distillation((inputs[cut], targets[cut])).backward()
            distillation.before_step()
            optimizer.step()
            distillation.after_step()
        distillation.epoch_end()

    def slope(net: nn.Module, cut: slice) -> Tensor:
        return as_a_loss("classification", net, net, (inputs[cut], targets[cut]), 0.0)

    for epoch in range(6):
        if epoch % 2 == 0:
            anchor = copy.deepcopy(reference)
            whole = slope(anchor, slice(0, 23))
        for cut in cuts:
            step = slope(reference, cut) - slope(anchor, cut) + whole
            flat = nn.utils.parameters_to_vector(reference.parameters()).detach() - rate * step
            nn.utils.vector_to_parameters(flat, reference.parameters())
    for ours, theirs in zip(student.parameters(), reference.parameters(), strict=True):
        assert (ours - theirs).abs().max() <= 1e-12


def test_repeated_self_distillation_is_kd_with_a_snapshot():
    """On a linear model it is PVR with the same snapshots."""
    inputs, targets = samples(count=20)
    found = []
    for method, weight in ((lb.PVR(weight=0.5), 1.0), (lb.KD(temperature=1, weight=0.5), 0.5)):
        student = linear(0)
        distillation = lb.Distillation(
            student,
            SnapshotTeacher(every_epochs=1),
            method,
            example=(inputs, targets),
            task_weight=weight,
        )
        optimizer = torch.optim.SGD(student.parameters(), lr=0.3)
        for _ in range(4):
            for start in (0, 10):
                optimizer.zero_grad()
                distillation((inputs[start : start + 10], targets[start : start + 10])).backward()
                distillation.before_step()
                optimizer.step()
                distillation.after_step()
            distillation.epoch_end()
        found.append(nn.utils.parameters_to_vector(student.parameters()).detach())
    assert (found[0] - found[1]).abs().max() <= 1e-12


def svrg_plan(every: int = 1, **train: Any) -> Plan:
    plan = make_plan(lb.PVR(weight=1.0, unbiased=True), epochs=3, **train)
    return dataclasses.replace(plan, teachers={"before": SnapshotTeacher(every_epochs=every)})


@pytest.mark.parametrize("steps", [3, 5, 8], ids=["first epoch", "second", "an epoch's end"])
def test_a_resumed_svrg_equals_an_undisturbed_one(steps, tmp_path):
    whole = run(svrg_plan(), tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distiller.Distiller, "_asked", lambda self: self.position.step >= steps)
        with pytest.raises(Interrupted):
            run(svrg_plan(), tmp_path / "cut")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distiller, "fit_runtimes", lambda *_: pytest.fail("fitted again"))
        resumed = run_plan(svrg_plan(), tmp_path / "cut", resume=True, quiet=True)
    assert same_weights(whole.student, resumed.student)
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")


def test_the_full_gradient_is_taken_once_a_snapshot(tmp_path, monkeypatch):
    from limbeck.methods import teacher_gradient

    taken = []
    real = teacher_gradient.mean_gradient

    def counted(*arguments: Any) -> Tensor:
        taken.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(teacher_gradient, "mean_gradient", counted)
    run(svrg_plan(every=2), tmp_path / "run")  # the start, and after two epochs of three
    assert len(taken) == 2


# λ over time, weight decay, labels.


def test_lambda_grows_to_its_limit_and_decays():
    assert [round(lb.PVR(weight=0.5, growth=0.9).lam(e), 6) for e in range(3)] == [0.5, 0.45, 0.405]
    assert lb.PVR(weight=0.9, growth=1.047, limit=1.0).lam(1) == pytest.approx(0.9423)
    assert lb.PVR(weight=0.9, growth=1.047, limit=1.0).lam(9) == 1.0
    assert lb.PVR(weight=1.5, growth=1.047, limit=1.0).lam(9) == 1.5  # never below its start


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
    assert log_of(tmp_path / "with", "epoch")[-1]["pvr/cosine"] == pytest.approx(1, abs=1e-4)


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
