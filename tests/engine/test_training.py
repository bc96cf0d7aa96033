"""What the loop promises: the loss it minimises, the epoch it keeps, the student it hands out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from five_methods import digits, make_plan, network, teacher_network
from torch import nn

from limbeck.engine.optim import learning_rate
from limbeck.engine.running import run_plan
from limbeck.engine.settings import Checkpoints, Optimizer, Schedule, Train
from limbeck.errors import LimbeckError, MethodError, RecipeError
from limbeck.methods import as_methods
from limbeck.models import build_model, load_model


def lines(run: Path, kind: str) -> list[dict[str, float]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == kind]


def test_one_epoch_equals_a_hand_written_loop(tmp_path: Path) -> None:
    """The same batches, SGD and loss, written out without any of the engine's parts."""
    from limbeck.data import batches, seed_everything_for_step
    from limbeck.engine.setup import SETUP_STEP

    plan = replace(
        make_plan("kd", epochs=1, ema=None, clip_norm=None, schedule=Schedule(name="constant")),
        checkpoints=Checkpoints(),
    )
    outcome = run_plan(plan, tmp_path / "run", quiet=True)
    seed_everything_for_step(plan.seed, SETUP_STEP, 0)
    student, teacher = network(4, 8), teacher_network()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    data = digits()
    for (batch,) in batches(
        data.splits["train"], batch_size=32, seed=3, epoch=0, augment=data.augment_train
    ):
        z = student(batch.inputs)
        with torch.no_grad():
            t = teacher(batch.inputs)
        kl = nn.functional.kl_div(
            (z / 4).log_softmax(1), (t / 4).log_softmax(1), log_target=True, reduction="batchmean"
        )
        loss = 0.9 * 16 * kl
        if bool((batch.targets != -100).any()):
            loss = loss + 0.1 * nn.functional.cross_entropy(z, batch.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for (name, ours), theirs in zip(
        outcome.student.state_dict().items(), student.state_dict().values(), strict=True
    ):
        assert torch.allclose(ours.float(), theirs.float(), rtol=1e-4, atol=1e-5), name


def test_the_best_epoch_by_validation_is_deployed(tmp_path: Path) -> None:
    plan = make_plan("kd", epochs=5, ema=None)
    outcome = run_plan(plan, tmp_path / "run", quiet=True)
    scores = [
        record["accuracy"]
        for record in lines(tmp_path / "run", "eval")
        if record["split"] == "validation" and not record.get("final")
    ]
    best = scores.index(max(scores))
    assert outcome.summary["best_epoch"] == best
    assert outcome.summary["metrics"]["validation"]["accuracy"] == max(scores)


def test_last_and_average_are_deployed_on_demand(tmp_path: Path) -> None:
    last = run_plan(make_plan("kd", deploy="last", ema=None), tmp_path / "last", quiet=True)
    average = run_plan(make_plan("kd", deploy="ema"), tmp_path / "ema", quiet=True)
    weights = [run.student.state_dict() for run in (last, average)]
    assert any(not torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert average.summary["deployed"] == "ema"


def test_the_student_is_plain_and_reads_back(tmp_path: Path) -> None:
    plan = replace(
        make_plan("fitnet"),
        make_student=lambda: build_model(
            "cnn", num_classes=10, input_shape=(1, 8, 8), channels=(4, 8)
        ),
        student_spec={
            "model": "cnn",
            "arguments": {"channels": [4, 8]},
            "num_classes": 10,
            "input_shape": [1, 8, 8],
        },
    )
    outcome = run_plan(plan, tmp_path / "run", quiet=True)
    for module in outcome.student.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert type(outcome.student) is type(plan.make_student())
    inputs = torch.rand(4, 1, 8, 8)
    again = load_model(tmp_path / "run" / "student")
    assert torch.equal(again(inputs), outcome.student(inputs))


def test_the_teacher_is_left_as_it_was(tmp_path: Path) -> None:
    teacher = teacher_network()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    run_plan(make_plan("e2kd"), tmp_path / "run", quiet=True)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())
    assert not any(module._forward_hooks for module in teacher.modules())


def test_samples_without_a_label_are_left_out_where_no_method_uses_them(tmp_path: Path) -> None:
    plan = replace(make_plan("kd"), methods=as_methods("plain"), teachers={})
    run_plan(plan, tmp_path / "run", quiet=True)
    assert {record["kept"] for record in lines(tmp_path / "run", "epoch")} == {80}
    run_plan(make_plan("kd"), tmp_path / "kd", quiet=True)
    assert {record["kept"] for record in lines(tmp_path / "kd", "epoch")} == {160}


def test_bfloat16_trains_weights_kept_in_float32(tmp_path: Path) -> None:
    plan = make_plan("kd", precision="bfloat16", ema=None)
    outcome = run_plan(plan, tmp_path / "run", quiet=True)
    assert all(v.dtype != torch.bfloat16 for v in outcome.student.state_dict().values())
    losses = [record["loss"] for record in lines(tmp_path / "run", "train")]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(name="constant"), [1.0, 1.0, 1.0, 1.0]),
        (Schedule(name="cosine"), [1.0, 0.8535533905932737, 0.5, 0.14644660940672627]),
        (Schedule(name="linear", final=0.2), [1.0, 0.8, 0.6, 0.4]),
        (Schedule(name="multistep", milestones=(0.5, 3), gamma=0.1), [1.0, 1.0, 0.1, 0.01]),
        (Schedule(name="constant", warmup_epochs=2), [0.5, 1.0, 1.0, 1.0]),
        (Schedule(name="cosine", cycles=2), [1.0, 0.5, 1.0, 0.5]),
        (Schedule(name="cosine", cycles=4, final=0.2), [1.0, 1.0, 1.0, 1.0]),
        (Schedule(name="linear", final=0.2, cycles=2), [1.0, 0.6, 1.0, 0.6]),
        (Schedule(name="multistep", milestones=(0.5,), cycles=2), [1.0, 0.1, 1.0, 0.1]),
        (Schedule(name="multistep", milestones=(1.0,), cycles=2), [1.0, 0.1, 1.0, 0.1]),
        (Schedule(name="constant", warmup_epochs=2, cycles=2), [0.5, 1.0, 0.5, 1.0]),
    ],
)
def test_schedules_against_closed_forms(schedule: Schedule, expected: list[float]) -> None:
    rates = [learning_rate(schedule, 1.0, progress=k / 4, epochs=4, step=1 / 4) for k in range(4)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("name", ["cosine", "linear", "multistep", "constant"])
def test_a_cycle_is_a_training_of_its_own_and_one_changes_nothing(name: str) -> None:
    """30 epochs of 7 steps in 3 cycles: at every step the rate of 10 epochs."""
    options: dict[str, Any] = {
        "name": name,
        "warmup_epochs": 1.5,
        "milestones": (0.5, 8),
        "final": 0.1,
    }

    def rates(epochs: int, cycles: int) -> list[float]:
        steps = [(epoch + step / 7) / epochs for epoch in range(epochs) for step in range(7)]
        schedule = Schedule(**options, cycles=cycles)
        return [
            learning_rate(schedule, 0.3, progress=done, epochs=epochs, step=1 / 7 / epochs)
            for done in steps
        ]

    assert rates(30, 3) == pytest.approx(rates(10, 1) * 3, rel=1e-9)
    begin, plain = rates(30, 1), Schedule(**options)
    again = learning_rate(plain, 0.3, progress=17 / 30, epochs=30, step=1 / 210)
    assert begin[17 * 7] == again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teachers": {}}, r"method kd: needs a teacher, and there is none"),
        (
            {"make_student": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 7))},
            r"student: gives outputs of shape \(2, 7\) .* 10 classes",
        ),
        (
            {"methods": as_methods([{"name": "fitnet", "hint_epochs": 9}, "kd"])},
            r"train.epochs: the stages of fitnet need at least 10, got 3",
        ),
        ({"train": Train(epochs=1, select_by="acuracy")}, r"did you mean 'accuracy'"),
        (
            {"methods": as_methods("e2kd"), "train": Train(compile=True)},
            r"train.compile: method e2kd takes second derivatives",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_before_training(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(LimbeckError, match=message) as caught:
        run_plan(replace(make_plan("kd"), **change), tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, RecipeError | MethodError)
    assert not (tmp_path / "run").exists()


def test_gradient_clipping_bounds_the_step(tmp_path: Path) -> None:
    plan = make_plan(
        "kd",
        epochs=1,
        clip_norm=1e-6,
        ema=None,
        deploy="last",
        optimizer=Optimizer(lr=1.0, momentum=0.0, weight_decay=0.0),
    )
    outcome = run_plan(plan, tmp_path / "run", quiet=True)
    from limbeck.data import seed_everything_for_step
    from limbeck.engine.setup import SETUP_STEP

    seed_everything_for_step(plan.seed, SETUP_STEP, 0)
    start = network(4, 8)
    moved = sum(
        float((a - b).detach().double().pow(2).sum())
        for a, b in zip(outcome.student.parameters(), start.parameters(), strict=True)
    )
    assert moved**0.5 <= 5 * 1e-6 * 1.01
