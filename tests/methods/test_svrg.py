"""The unbiased form of PVR, with snapshots: SVRG, against SVRG written out."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from method_runs import log_of, make_plan, run, same_weights
from pvr_gradients import as_a_loss, bundle, linear, samples
from torch import Tensor, nn

import limbeck as lb
from limbeck.engine import distiller
from limbeck.engine.plan import Plan
from limbeck.engine.running import run_plan
from limbeck.engine.signals import Interrupted
from limbeck.teachers import SnapshotTeacher


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
