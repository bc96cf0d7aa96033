"""Seams of methods, each tried by a throw-away method."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from five_methods import digits, make_plan, network, teacher_network
from killing import differing, evidence
from reviewing import cohort_plan, stop_after
from torch import Tensor, nn

from limbeck.data import Batch, TensorSamples, View
from limbeck.engine.distiller import Distiller
from limbeck.engine.plan import Plan
from limbeck.engine.running import run_plan
from limbeck.engine.settings import Checkpoints, Optimizer, Schedule
from limbeck.errors import MethodError
from limbeck.methods import Method, as_methods
from limbeck.methods.base import Runtime, Terms
from limbeck.methods.card import Card
from limbeck.methods.context import Context
from limbeck.models import load_model, model_spec
from limbeck.taps.outputs import Outputs
from limbeck.teachers.live import LiveTeacher

CARD = Card(title="try", equation="0", teacher_access="none", tasks=("classification",))


@dataclass(frozen=True, kw_only=True)
class Push(Method):
    """Adds a one to every gradient, and teaches nothing else."""

    name: ClassVar[str] = "push"
    card: ClassVar[Card] = CARD
    parameter: str | None = None

    def prepare(self, *args: Any) -> Runtime:
        return PushRuntime(self)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        return {"push": 0 * student.logits.sum()}


class PushRuntime(Runtime):
    def gradients(self, ctx: Context) -> Mapping[str, Tensor]:
        assert isinstance(self.method, Push)
        if self.method.parameter is not None:
            return {self.method.parameter: torch.ones(1)}
        # The shapes of the member that this runtime serves, by names of its own.
        channels = (4, 6)[ctx.member] if ctx.num_members > 1 else 4
        return {n: torch.ones_like(p) for n, p in network(channels, 8).named_parameters()}


@pytest.mark.parametrize("cohort", [False, True])
@pytest.mark.parametrize("clip", [None, 0.3])
def test_gradient_deltas_are_weighted_then_clipped(
    cohort: bool, clip: float | None, tmp_path: Path
) -> None:
    """Closed form: SGD without momentum moves every weight by -lr · steps · its delta."""
    plan = make_plan(
        "dml" if cohort else "kd",
        epochs=1,
        deploy="last",
        ema=None,
        clip_norm=clip,
        optimizer=Optimizer(lr=0.01, momentum=0.0, weight_decay=0.0),
        schedule=Schedule(name="constant"),
    )
    started: list[nn.Module] = []

    def make_student() -> nn.Module:
        started.append(plan.make_student())
        return started[0]

    methods = as_methods([0.5 * Push()])
    changed = replace(plan, methods=methods, task_weight=0.0, make_student=make_student)
    with pytest.MonkeyPatch.context() as patch:
        before: dict[str, Tensor] = {}

        def remember(self: Distiller) -> None:
            before.update({n: p.detach().clone() for n, p in started[0].named_parameters()})
            real(self)

        real = Distiller.start
        patch.setattr(Distiller, "start", remember)
        run_plan(changed, tmp_path / "run", quiet=True)
    count = sum(value.numel() for value in before.values())
    per_step = 0.5 if clip is None else clip / count**0.5
    labelled = 80  # the method asks no teacher, so that unlabelled samples are left out
    steps = -(-labelled // 32)
    for name, parameter in started[0].named_parameters():
        moved = before[name] - parameter
        assert torch.allclose(moved, torch.full_like(moved, 0.01 * steps * per_step), atol=1e-6)


def test_a_delta_for_an_unknown_parameter_is_one_line(tmp_path: Path) -> None:
    plan = replace(make_plan("kd"), methods=(Push(parameter="head.wieght"),), task_weight=1.0)
    with pytest.raises(MethodError, match=r"method push: unknown parameter 'head.wieght'"):
        run_plan(plan, tmp_path / "run", quiet=True)


class Grown(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.extra = inner, nn.Linear(10, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.extra(self.inner(inputs))
        return out


@dataclass(frozen=True, kw_only=True)
class Grow(Method):
    """Puts a layer on the student; keeps it, or strips it at deploy."""

    name: ClassVar[str] = "grow"
    card: ClassVar[Card] = replace(CARD, deploys="grown")
    strip: bool = False

    def prepare(self, student: nn.Module, *args: Any) -> Runtime:
        return GrowRuntime(self, Grown(student))

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        return {}


class GrowRuntime(Runtime):
    def deploy(self, student: nn.Module) -> nn.Module:
        assert isinstance(student, Grown)
        inner = student.inner
        return inner if isinstance(self.method, Grow) and self.method.strip else student


@pytest.mark.parametrize("deploy", ["best", "ema"])
def test_a_changed_student_is_what_later_methods_see_and_what_is_deployed(
    deploy: str, tmp_path: Path
) -> None:
    fitnet = {"name": "fitnet", "pairs": [["inner.stages.0", "stages.0"]]}
    plan = replace(
        make_plan("kd", deploy=deploy),
        methods=as_methods([Grow(), fitnet, "kd"]),
        student_spec=model_spec("cnn", num_classes=10, input_shape=(1, 8, 8), channels=[4, 8]),
    )
    outcome = run_plan(plan, tmp_path / "run", quiet=True)
    assert isinstance(outcome.student, Grown)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in outcome.student.modules())
    described = json.loads((tmp_path / "run" / "student" / "model.json").read_text())
    assert described["model"] is None  # the name alone would rebuild another network
    load_model(tmp_path / "run" / "student", Grown(network(4, 8)))


def test_deploy_strips_what_served_training_only(tmp_path: Path) -> None:
    plan = replace(make_plan("kd"), methods=as_methods([Grow(strip=True), "kd"]))
    outcome = run_plan(plan, tmp_path / "run", quiet=True)
    assert type(outcome.student) is type(network(4, 8))


@dataclass(frozen=True, kw_only=True)
class Blank(Method):
    """Blanks the batch; says what it was asked and what the models say."""

    name: ClassVar[str] = "blank"
    card: ClassVar[Card] = CARD
    for_teacher: bool = False

    def prepare(self, *args: Any) -> Runtime:
        return BlankRuntime(self)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        assert not batch.inputs.any()
        assert batch.changed is not None
        return {}


class BlankRuntime(Runtime):
    calls: ClassVar[list[int]] = []

    def batch(self, batch: Batch, ctx: Context) -> Batch:
        self.calls.append(ctx.step)
        assert len(ctx.student(batch).logits) == len(ctx.teacher(batch, "teacher").logits)
        assert isinstance(self.method, Blank)
        return batch.replace(
            inputs=torch.zeros_like(batch.inputs),
            changed=torch.ones(len(batch), dtype=torch.bool),
            teacher_inputs=batch.inputs if self.method.for_teacher else None,
        )


@pytest.mark.parametrize("for_teacher", [False, True])
def test_a_changed_batch_reaches_student_and_teacher_once(
    for_teacher: bool, tmp_path: Path
) -> None:
    seen: list[bool] = []

    class Watching(LiveTeacher):
        def ask(self, batch: Batch, **options: Any) -> Outputs:  # type: ignore[override]
            if options.get("taps") is None:  # the ordinary question of a step
                shown = batch.inputs if batch.teacher_inputs is None else batch.teacher_inputs
                seen.append(bool(shown.any()))
            return super().ask(batch, **options)

    BlankRuntime.calls.clear()
    plan = cohort_plan("kd", Blank(for_teacher=for_teacher), epochs=1)
    teachers = {**plan.teachers, "teacher": Watching(teacher_network())}
    run_plan(replace(plan, teachers=teachers), tmp_path / "run", quiet=True)
    assert seen == [for_teacher] * 5
    assert BlankRuntime.calls == [0, 1, 2, 3, 4]  # once a step, not once a member


@dataclass(frozen=True, kw_only=True)
class Draw(Method):
    """Keeps a random half of those samples on which the models differ most."""

    name: ClassVar[str] = "draw"
    card: ClassVar[Card] = replace(CARD, selects=True)
    foreign: bool = False

    def prepare(self, *args: Any) -> Runtime:
        return DrawRuntime(self)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        return {}


class DrawRuntime(Runtime):
    def examples(self, view: View, ctx: Context) -> View:
        data = digits()
        whole = data.splits["train"]
        if isinstance(self.method, Draw) and self.method.foreign:
            return View.of(TensorSamples(torch.rand(9, 1, 8, 8), torch.zeros(9).long()))
        raw = whole.fetch(torch.arange(len(whole)))
        batch = raw.replace(inputs=data.augment_eval(raw.inputs, raw.index))
        with torch.no_grad():
            gap = (ctx.student(batch).logits - ctx.teacher(batch).logits).abs().sum(1)
        noise = torch.rand(len(gap)) + torch.rand(len(gap), generator=ctx.generator)
        return whole.select(whole.indices[(gap * noise).argsort()[:80]])


def test_examples_may_ask_models_and_draw_and_still_resume_to_the_same_bits(
    tmp_path: Path,
) -> None:
    def plan() -> Plan:
        return replace(
            make_plan("kd"), methods=as_methods(["kd", Draw()]), checkpoints=Checkpoints()
        )

    run_plan(plan(), tmp_path / "one", quiet=True)
    stop_after(4, plan(), tmp_path / "two")  # epochs have 3 steps: goes on at the start of one
    torch.rand(3)  # another process would not have this generator's state
    run_plan(plan(), tmp_path / "two", resume=True, quiet=True)
    assert differing(evidence(tmp_path / "one"), evidence(tmp_path / "two")) == []


def test_examples_from_another_set_are_refused(tmp_path: Path) -> None:
    plan = replace(make_plan("kd"), methods=as_methods(["kd", Draw(foreign=True)]))
    with pytest.raises(MethodError, match="method draw: examples must return a view"):
        run_plan(plan, tmp_path / "run", quiet=True)
