"""Answers that runs of one process share: the same bits, and each teacher asked once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from five_methods import make_plan
from safetensors.torch import load_file

from limbeck.engine.known_answers import KnownAnswers
from limbeck.engine.measuring import Judge
from limbeck.engine.running import run_plan


def test_runs_that_share_them_say_the_same_and_ask_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = Judge._batches

    def counting(self: Judge, split: str) -> object:
        asked.append(split)
        return real(self, split)

    monkeypatch.setattr(Judge, "_batches", counting)
    shared, counts = KnownAnswers(), []
    for number, answers in enumerate((None, shared, shared)):
        asked.clear()
        plan = dataclasses.replace(make_plan("kd", epochs=1), answers=answers)
        run_plan(plan, tmp_path / str(number), quiet=True)
        counts.append(len(asked))
    assert counts[0] == counts[1] == counts[2] + 2  # validation and test of the teacher
    assert len(shared) == 2
    first, *others = (load_file(tmp_path / str(n) / "predictions.safetensors") for n in range(3))
    for other in others:
        assert first.keys() == other.keys()
        assert all(torch.equal(first[key], other[key]) for key in first)


def test_another_teacher_or_other_data_are_asked_anew(tmp_path: Path) -> None:
    from limbeck.data import load_data
    from limbeck.models import build_model
    from limbeck.teachers import LiveTeacher

    shared = KnownAnswers()
    plan = dataclasses.replace(make_plan("kd", epochs=1), answers=shared)
    run_plan(plan, tmp_path / "one", quiet=True)
    torch.manual_seed(5)
    other = build_model("cnn", num_classes=10, input_shape=(1, 8, 8), channels=(8, 16))
    run_plan(
        dataclasses.replace(plan, teachers={"teacher": LiveTeacher(other)}),
        tmp_path / "two",
        quiet=True,
    )
    assert len(shared) == 4
    data = load_data("digits", num_train=100)
    run_plan(dataclasses.replace(plan, data=data), tmp_path / "three", quiet=True)
    assert len(shared) == 6
    train = dataclasses.replace(plan.train, precision="bfloat16")
    run_plan(dataclasses.replace(plan, train=train), tmp_path / "four", quiet=True)
    assert len(shared) == 8


def test_those_used_longest_ago_go_first() -> None:
    kept = KnownAnswers(most=3 * 40)
    calls: list[int] = []

    def ask(number: int) -> torch.Tensor:
        def answer() -> torch.Tensor:
            calls.append(number)
            return torch.full((10,), float(number))

        return kept.get(number, answer)

    for number in (1, 2, 3, 1, 4):
        assert ask(number)[0] == number
    assert calls == [1, 2, 3, 4]
    ask(1)
    ask(2)  # had been let go
    assert calls == [1, 2, 3, 4, 2]
    assert len(kept) == 3
    assert len(KnownAnswers(most=0)) == 0
