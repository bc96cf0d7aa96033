"""Backward-KD: where copies go, that nothing else moves, and whole runs beside plain KD."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from method_runs import digits, log_of, make_cnn, make_plan, run, same_weights, teacher_network
from torch import nn

import limbeck as lb
from limbeck import functional
from limbeck.engine import distiller
from limbeck.engine.distributed import World
from limbeck.engine.running import run_plan
from limbeck.engine.setup import assemble
from limbeck.engine.signals import Interrupted
from limbeck.errors import LimbeckError, MethodError
from limbeck.methods import backward
from limbeck.methods.backward import Backward

ROUND = {"name": "backward", "rounds": 1, "rate": 0.5}


def parts_of(*methods: Any, epochs: int = 3, **train: Any) -> Any:
    return assemble(make_plan(*methods, epochs=epochs, **train), World())


def at_round(parts: Any, epoch: int = 1) -> Any:
    """The runtime after it has chosen the samples of an epoch, and the view."""
    (runtime,) = [one for one in parts.runtimes if one.method.name == "backward"]
    parts.ctx.epoch = epoch
    view = digits().splits["train"]
    assert parts.module.choose(view) is view
    return runtime, view


def divergence(parts: Any, runtime: Any, inputs: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) at the temperature, written out, in eval mode."""
    student = parts.student.eval()
    heat = runtime.method.temperature
    with torch.no_grad():
        p = (teacher_network()(inputs).double() / heat).softmax(1)
        q = (student(inputs).double() / heat).softmax(1)
    student.train()
    return (p * (p / q).log()).sum(1)


def shown(view: Any) -> torch.Tensor:
    raw = view.fetch(torch.arange(len(view)))
    return digits().augment_eval(raw.inputs, raw.index)


def test_ascent_follows_the_gradient_of_each_sample_alone():
    torch.manual_seed(0)
    start, slope = torch.randn(5, 3, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    form = slope @ slope.T
    moved = functional.ascend(start, lambda x: 0.5 * ((x @ form) * x).sum(1), rate=0.1, steps=3)
    grown = torch.linalg.matrix_power(torch.eye(3, dtype=torch.float64) + 0.1 * form, 3)
    assert torch.allclose(moved, start @ grown, rtol=1e-12)
    assert not moved.requires_grad
    assert torch.equal(functional.ascend(start, lambda x: x.sum(1), rate=0.0, steps=9), start)
    assert torch.equal(functional.ascend(start, lambda x: x.sum(1), rate=9.0, steps=0), start)
    with pytest.raises(ValueError, match="rate is -1, steps is 2; expected numbers of at least 0"):
        functional.ascend(start, lambda x: x.sum(1), rate=-1, steps=2)


def test_directions_get_the_norms_and_zero_stays_zero():
    ones = torch.ones(3, 4)
    ones[2] = 0
    lengths = torch.zeros(3, 4)
    lengths[0, 0] = 6.0
    assert functional.with_norms_of(ones, lengths).tolist() == [[3.0] * 4, [0.0] * 4, [0.0] * 4]


def test_a_small_step_raises_the_divergence_by_rate_times_squared_slope():
    rate = 1e-2
    parts = parts_of("kd", {**ROUND, "steps": 1, "rate": rate})
    runtime, view = at_round(parts)
    start, moved = shown(view), runtime.moved[0][view.indices]
    gained = divergence(parts, runtime, moved) - divergence(parts, runtime, start)
    squared = ((moved - start) / rate).flatten(1).square().sum(1).double()
    known = squared > squared.median()  # below, float32 of the networks decides
    assert torch.allclose(gained[known], rate * squared[known], rtol=0.2)
    assert float(gained.mean()) > 0
    parts.close()


@pytest.mark.parametrize("still", [{"rate": 0.0}, {"steps": 0}])
def test_without_a_step_copies_are_the_samples(still):
    parts = parts_of("kd", {**ROUND, **still})
    runtime, view = at_round(parts)
    assert torch.equal(runtime.moved[0][view.indices], shown(view))
    parts.close()


def test_equal_networks_leave_the_copies_where_they_are():
    parts = parts_of("kd", ROUND)
    runtime, view = at_round(parts)
    assert not torch.equal(runtime.moved[0][view.indices], shown(view))
    parts.ctx.teacher = lambda batch, name=None, **more: parts.ctx.student(batch, **more)
    runtime.examples(view, parts.ctx)
    assert torch.equal(runtime.moved[0][view.indices], shown(view))
    parts.close()


def test_copies_go_as_far_whatever_samples_are_moved_beside_them(monkeypatch):
    parts = parts_of("kd", {**ROUND, "rate": 5.0})
    runtime, view = at_round(parts)
    together = runtime.moved[0][view.indices].clone()
    monkeypatch.setattr(backward, "MOVED_AT_ONCE", 17)
    at_round(parts)
    apart = runtime.moved[0][view.indices]
    far = (together - shown(view)).flatten(1).norm(dim=1)
    assert float(far.median()) > 0.1
    assert float(((together - apart).flatten(1).norm(dim=1) / far.clamp(min=0.1)).max()) < 1e-2
    parts.close()


def test_making_copies_moves_no_weight_no_statistic_and_no_gradient():
    parts = parts_of("kd", ROUND)
    big = teacher_network()
    before = {k: v.clone() for k, v in [*parts.student.state_dict().items()]}
    theirs = {k: v.clone() for k, v in big.state_dict().items()}
    at_round(parts)
    assert all(torch.equal(v, before[k]) for k, v in parts.student.state_dict().items())
    assert all(torch.equal(v, theirs[k]) for k, v in big.state_dict().items())
    assert all(parameter.grad is None for parameter in parts.student.parameters())
    assert all(module.training for module in parts.student.modules())
    parts.close()


def test_the_whole_student_stands_still_also_what_a_method_to_the_right_added():
    parts = parts_of(ROUND, "simkd")
    parts.module.train()
    before = {name: value.clone() for name, value in parts.module.student.state_dict().items()}
    at_round(parts)
    after = parts.module.student.state_dict()
    assert all(torch.equal(before[name], value) for name, value in after.items())
    assert all(part.training for part in parts.module.student.modules())


def test_noise_goes_as_far_in_another_direction():
    ascent, noise = parts_of("kd", ROUND), parts_of("kd", {**ROUND, "direction": "noise"})
    (one, view), (two, _) = at_round(ascent), at_round(noise)
    start = shown(view)
    up, aside = ((r.moved[0][view.indices] - start).flatten(1) for r in (one, two))
    assert torch.allclose(up.norm(dim=1), aside.norm(dim=1), rtol=1e-4)
    assert float(nn.functional.cosine_similarity(up, aside).abs().mean()) < 0.3
    assert float(divergence(ascent, one, start + up.view_as(start)).mean()) > float(
        divergence(noise, two, start + aside.view_as(start)).mean()
    )
    ascent.close()
    noise.close()


def test_a_batch_of_a_round_is_itself_and_as_many_copies():
    parts = parts_of("kd", ROUND)
    runtime, view = at_round(parts)
    batch = view.fetch(torch.arange(8)).replace(inputs=shown(view)[:8])
    grown = runtime.batch(batch, parts.ctx)
    assert len(grown) == 16
    assert torch.equal(grown.inputs, torch.cat([batch.inputs, runtime.moved[0][batch.index]]))
    assert torch.equal(grown.index, torch.cat([batch.index, batch.index]))
    assert torch.equal(grown.targets[8:], batch.targets)
    assert grown.changed.tolist() == [False] * 8 + [True] * 8
    for part in (0, 2):
        at_round(parts, part)
        assert runtime.batch(batch, parts.ctx) is batch
    parts.close()


@pytest.mark.parametrize(("hard", "expected"), [("none", None), ("teacher", "theirs")])
def test_hard_labels_of_copies(hard, expected):
    parts = parts_of("kd", {**ROUND, "hard_label": hard})
    runtime, view = at_round(parts)
    batch = view.fetch(torch.arange(8)).replace(inputs=shown(view)[:8])
    labels = runtime.batch(batch, parts.ctx).targets[8:]
    theirs = teacher_network()(runtime.moved[0][batch.index]).argmax(1)
    theirs[batch.targets < 0] = -100
    assert (theirs >= 0).any()
    assert labels.tolist() == ([-100] * 8 if expected is None else theirs.tolist())
    parts.close()


def test_kept_generations_join_those_of_later_rounds():
    parts = parts_of("kd", {**ROUND, "rounds": 2, "keep": True}, epochs=4)
    runtime, view = at_round(parts, 1)
    first = runtime.moved[0].clone()
    batch = view.fetch(torch.arange(8)).replace(inputs=shown(view)[:8])
    assert len(runtime.batch(batch, parts.ctx)) == 16
    with torch.no_grad():
        for parameter in parts.student.parameters():
            parameter.mul_(1.1)
    at_round(parts, 2)
    grown = runtime.batch(batch, parts.ctx)
    assert len(grown) == 24
    assert torch.equal(runtime.moved[0], first)
    assert torch.equal(grown.inputs[8:16], first[batch.index])
    assert torch.equal(grown.inputs[16:], runtime.moved[1][batch.index])
    assert not torch.equal(runtime.moved[0], runtime.moved[1])
    parts.close()


def test_without_rounds_it_is_kd_to_the_bit(tmp_path):
    plain = run(make_plan("kd", epochs=2), tmp_path / "kd")
    ours = run(make_plan("kd", {"name": "backward", "rounds": 0}, epochs=2), tmp_path / "ours")
    assert same_weights(plain.student, ours.student)


def test_a_run_has_its_parts(tmp_path):
    outcome = run(make_plan("kd", ROUND, epochs=7), tmp_path / "run")
    copies = [r["backward/copies"] for r in _records(outcome.folder.path) if r["kind"] == "epoch"]
    assert copies == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]


def _records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_numbers_to_predict(tmp_path):
    points = torch.linspace(-1, 1, 8)[:, None]
    given = (points, points**3)
    outcome = lb.distill(
        teacher=nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)),
        student=nn.Linear(1, 1),
        data=lb.data.bundle_from(given, given, given, task="regression"),
        method=lb.LogitMSE() + Backward(rounds=1, rate=0.05, divergence="mse"),
        epochs=3,
        batch_size=4,
        output=tmp_path / "run",
        quiet=True,
    )
    steps = [r for r in _records(outcome.path) if r["kind"] == "train"]
    assert all(r["logit_mse"] > 0 for r in steps)
    assert [r["backward/copies"] for r in _records(outcome.path) if r["kind"] == "epoch"] == [
        0,
        1,
        0,
    ]


@pytest.mark.parametrize(
    ("method", "changes", "line"),
    [
        (Backward(rounds=2), {"epochs": 3}, "2 rounds need 4 epochs or more, there are 3"),
        (Backward(), {"student": [make_cnn(4), make_cnn(4)]}, "for one student, not for a cohort"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(method, changes, line, tmp_path):
    arguments = {"student": make_cnn(4), "epochs": 8, **changes}
    with pytest.raises(LimbeckError, match=line):
        lb.distill(
            teacher=teacher_network(),
            data=digits(),
            method=lb.KD() + method,
            output=tmp_path / "run",
            quiet=True,
            **arguments,
        )


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("rounds", -1, "a whole number of at least 0"),
        ("rate", -0.1, "a number of at least 0"),
        ("steps", -1, "a whole number of at least 0"),
        ("divergence", "l1", "auto, kl or mse"),
        ("temperature", 0, "a number above 0"),
        ("hard_label", "x", "source, none or teacher"),
        ("direction", "down", "ascent or noise"),
    ],
)
def test_values_that_make_no_sense(key, value, expected):
    with pytest.raises(MethodError, match=rf"method\.{key}: expected {expected}, got"):
        Backward(**{key: value})


def test_a_run_cut_within_a_round_goes_on_with_its_copies(tmp_path):
    def plan() -> Any:
        return make_plan("kd", {**ROUND, "direction": "noise"}, epochs=6)

    whole = run(plan(), tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distiller.Distiller, "_asked", lambda self: self.position.step >= 10)
        with pytest.raises(Interrupted):
            run(plan(), tmp_path / "cut")
    resumed = run_plan(plan(), tmp_path / "cut", resume=True, quiet=True)
    assert same_weights(whole.student, resumed.student)
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")
