"""Residual distillation: who learns what in which phase, what is left, and what it costs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from feature_runs import prepare
from method_runs import digits, log_of, make_cnn, make_plan, run, same_weights
from torch import nn

import limbeck as lb
from limbeck.data.batch import Batch
from limbeck.engine import distiller
from limbeck.engine.running import run_plan
from limbeck.engine.signals import Interrupted
from limbeck.errors import MethodError
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.models import (
    StudentAssistant,
    build_model,
    count_flops,
    count_parameters,
    load_model,
    model_spec,
)
from limbeck.taps.outputs import Outputs


def terms_of(runtime: Any, ours: Any, more: Any, theirs: Any) -> dict[str, torch.Tensor]:
    logits = torch.zeros(len(theirs), 10)
    said = Outputs(logits, dict(zip(runtime.student_taps(), (ours, more), strict=True)))
    heard = Outputs(logits, {runtime.teacher_taps()[0]: theirs})
    return dict(runtime.losses(said, heard, Batch(inputs=logits), Context()))


def vectors(**parameters: Any) -> Any:
    method = make_method("residual", level="vectors", **parameters)
    return prepare(method, make_cnn(8, 16), make_cnn(5, 7), 8)


def test_the_assistant_learns_what_the_student_misses():
    runtime = vectors(assistant_weight=2.0)
    assert runtime.student_taps() == ("lift_student", "lift_assistant")
    ours, more, theirs = torch.randn(3, 4, 7, dtype=torch.float64)
    ours.requires_grad_(), more.requires_grad_()
    terms = terms_of(runtime, ours, more, theirs)
    torch.testing.assert_close(terms["mimic"], (ours - theirs).square().mean())
    missing = (theirs - ours - more).square().mean()
    torch.testing.assert_close(terms["residual"], 2 * missing)
    assert torch.autograd.grad(terms["residual"], ours, allow_unused=True) == (None,)


def test_nothing_is_left_where_the_student_is_the_teacher():
    runtime = vectors()
    theirs = torch.randn(4, 7)
    more = torch.zeros(4, 7, requires_grad=True)
    terms = terms_of(runtime, theirs.clone(), more, theirs)
    assert terms["mimic"] == terms["residual"] == 0
    assert not torch.autograd.grad(terms["residual"], more)[0].any()


def test_the_student_alone_is_plain_mimicry():
    runtime = vectors(assistant_weight=0.0)
    ours, theirs = torch.randn(2, 4, 7)
    terms = terms_of(runtime, ours, torch.randn(4, 7), theirs)
    assert terms["residual"] == 0
    torch.testing.assert_close(terms["mimic"], (ours - theirs).square().mean())


def test_an_assistant_that_can_say_anything_closes_the_gap():
    """A linear assistant with enough features: its least squares solution is the residual."""
    torch.manual_seed(0)
    features = torch.randn(12, 20, dtype=torch.float64)
    ours, theirs = torch.randn(2, 12, 7, dtype=torch.float64)
    solution = torch.linalg.lstsq(features, theirs - ours).solution
    terms = terms_of(vectors(), ours, features @ solution, theirs)
    assert terms["residual"] < 1e-20
    assert terms["mimic"] > 0.1


def test_maps_are_lifted_and_pooled_to_one_size():
    method = make_method("residual", distance="normalised")
    runtime = prepare(method, make_cnn(8, 16), make_cnn(5, 7), 8)
    both = runtime.student
    assert runtime.student_taps() == (".student.stages.1", ".assistant.stages")
    nn.init.normal_(both.lift_assistant.weight)
    widths = both.lift_student.in_features, both.lift_assistant.in_features
    ours, more = (torch.rand(3, width, 4, 4) for width in widths)
    theirs = torch.rand(3, 7, 2, 2)
    terms = terms_of(runtime, ours, more, theirs)
    pool = nn.functional.avg_pool2d
    mine = both.lift_student(pool(ours, 2).movedim(1, -1)).movedim(-1, 1)
    rest = both.lift_assistant(pool(more, 2).movedim(1, -1)).movedim(-1, 1)
    length = theirs.square().mean((1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(terms["mimic"], ((mine - theirs) / length).square().mean())
    torch.testing.assert_close(terms["residual"], ((mine + rest - theirs) / length).square().mean())


def grown_plan(**parameters: Any) -> Any:
    plan = make_plan({"name": "residual", **parameters}, epochs=3)
    spec = model_spec("cnn", num_classes=10, input_shape=(1, 8, 8), channels=[8, 16])
    return dataclasses.replace(plan, make_student=lambda: make_cnn(8, 16), student_spec=spec)


def test_one_after_the_other_and_both_are_deployed_at_no_more_cost(tmp_path):
    seen = []

    def watch(self: Any, batch: Batch, ctx: Context) -> Batch:
        both = self.student
        seen.append((ctx.stage, {k: v.clone() for k, v in both.state_dict().items()}))
        return real(self, batch, ctx)

    from limbeck.methods.residual import ResidualRuntime

    real = ResidualRuntime.batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResidualRuntime, "batch", watch)
        outcome = run(grown_plan(student_epochs=1, joint_epochs=1), tmp_path / "run")
    stages = [stage for stage, _ in seen]
    assert list(dict.fromkeys(stages)) == ["student", "assistant", "joint"]
    first = {stage: next(state for s, state in seen if s == stage) for stage in stages}

    def moved(part: str, start: str, stop: str) -> set[bool]:
        keys = [k for k in first[start] if k.startswith((f"{part}.", f"lift_{part}."))]
        return {not torch.equal(first[start][k], first[stop][k]) for k in keys if "num_" not in k}

    assert moved("assistant", "student", "assistant") == {False}
    assert moved("student", "assistant", "joint") == {False}
    assert True in moved("student", "student", "assistant")
    assert True in moved("assistant", "assistant", "joint")
    terms = {stage: set() for stage in stages}
    for record, (stage, _) in zip(log_of(outcome.folder.path), seen, strict=True):
        terms[stage] |= set(record) & {"task", "mimic", "residual"}
    assert terms["student"] == {"task", "mimic"}
    assert terms["assistant"] == {"task", "residual"}
    assert terms["joint"] == {"task", "mimic", "residual"}
    both, given = outcome.student, make_cnn(8, 16)
    inputs = torch.rand(2, 1, 8, 8)
    assert isinstance(both, StudentAssistant)
    assert count_parameters(both) <= count_parameters(given)
    assert count_flops(both, inputs) <= count_flops(given, inputs)
    (said,) = {r["residual/parameters"] for r in log_of(outcome.folder.path, "epoch")}
    assert said == pytest.approx(count_parameters(both) / count_parameters(given))
    again = load_model(tmp_path / "run" / "student")
    assert torch.equal(again(inputs), both(inputs))


def test_a_resumed_run_equals_an_undisturbed_one(tmp_path):
    whole = run(grown_plan(student_epochs=1), tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distiller.Distiller, "_asked", lambda self: self.position.step >= 6)
        with pytest.raises(Interrupted):
            run(grown_plan(student_epochs=1), tmp_path / "cut")
    resumed = run_plan(grown_plan(student_epochs=1), tmp_path / "cut", resume=True, quiet=True)
    assert same_weights(whole.student, resumed.student)
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")


def test_other_methods_see_both_as_one(tmp_path):
    plan = dataclasses.replace(
        grown_plan(student_epochs=1),
        methods=lb.methods.as_methods([{"name": "residual", "student_epochs": 1}, "kd", "at"]),
    )
    outcome = run(plan, tmp_path / "run")
    assert isinstance(outcome.student, StudentAssistant)


@pytest.mark.parametrize("to", ["torch-export", "onnx"])
def test_both_leave_as_one_graph(to, tmp_path):
    teacher = build_model("cnn", num_classes=10, input_shape=(1, 8, 8), channels=(6,))
    done = lb.distill(
        teacher=teacher,
        student=make_cnn(8, 16),
        data=digits(),
        method=make_method("residual", student_epochs=1),
        epochs=2,
        output=tmp_path / "run",
        quiet=True,
    )
    exported = done.export(to, tmp_path / "out", quiet=True)
    assert exported.facts["check"]["relative_difference"] <= 1e-5


def test_the_classifier_starts_from_the_teachers():
    teacher = make_cnn(5, 7)
    both = prepare(make_method("residual"), make_cnn(8, 16), teacher, 8).student
    assert torch.equal(both.head.weight, teacher.head.weight)
    assert torch.equal(both.head.bias, teacher.head.bias)
    fresh = prepare(make_method("residual", head="new"), make_cnn(8, 16), teacher, 8).student
    assert not torch.equal(fresh.head.weight, teacher.head.weight)


def test_a_network_that_cannot_be_cut_says_what_to_do_and_that_can_be_done():
    def vit(dim: int) -> nn.Module:
        return build_model(
            "vit", num_classes=10, input_shape=(1, 8, 8), dim=dim, depth=1, heads=2, patch=4
        )

    with pytest.raises(MethodError) as caught:
        prepare(make_method("residual"), vit(16), make_cnn(5, 7), 8)
    line = str(caught.value)
    assert "\n" not in line
    assert "limbeck.models.StudentAssistant(student, assistant, heads=…, features=7" in line
    both = StudentAssistant(vit(12), vit(6), heads=("head", "head"), features=7, num_classes=10)
    runtime = prepare(make_method("residual"), both, make_cnn(5, 7), 8)
    assert runtime.student is both
    assert runtime.student_taps() == ("lift_student", "lift_assistant")
    with pytest.raises(MethodError, match=r"reads 9: build them with features=9"):
        prepare(make_method("residual"), both, make_cnn(5, 9), 8)
    with pytest.raises(MethodError, match=r"method\.level: 'maps' needs .*set level: vectors"):
        prepare(make_method("residual", level="maps"), both, make_cnn(5, 7), 8)


def test_a_cohort_is_refused_as_only_one_student_is_told_its_phase(tmp_path):
    with pytest.raises(MethodError, match="trains one student in phases, not a cohort"):
        lb.distill(
            teacher=make_cnn(8, 16),
            student=[make_cnn(8, 16), make_cnn(8, 16)],
            data=digits(),
            method=lb.Residual() + lb.DML(teacher="peers"),
            epochs=2,
            output=tmp_path / "run",
            quiet=True,
        )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("assistant_weight", -1.0),
        ("ratio", 0.0),
        ("level", "map"),
        ("distance", "l1"),
        ("student_epochs", -1),
        ("joint_epochs", -1),
        ("head", "old"),
    ],
)
def test_values_without_a_meaning_are_refused(key, value):
    with pytest.raises(MethodError, match=rf"method\.{key}: expected .* got .*\(residual\)"):
        make_method("residual", **{key: value})
