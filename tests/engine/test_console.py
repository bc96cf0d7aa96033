"""What a person at a terminal is told."""

from __future__ import annotations

from typing import Any

import pytest

from limbeck.engine import logbook


def test_the_time_left_counts_the_epochs_of_this_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 10.0, 30.0])
    monkeypatch.setattr(logbook.time, "monotonic", lambda: next(clock))
    console = logbook.Console(6, label="kd")
    console.epoch(3, {"loss": 1.0}, {"accuracy": 0.5})  # resumed: three were done before
    console.epoch(4, {"loss": 1.0}, {"accuracy": 0.5})
    first, second = capsys.readouterr().out.splitlines()
    assert first == "kd: epoch 4/6  loss 1  validation accuracy 0.5  10 s, 20 s left"
    assert second.endswith("30 s, 15 s left")


def test_the_bar_shows_the_last_validation_score() -> None:
    shown: list[str] = []

    class Bar:
        def update(self, task: Any, **what: Any) -> None:
            shown.append(what["terms"])

    console = logbook.Console(2)
    console._bar = Bar()
    console.step(0.5, {"loss": 1.0}, 10.0)
    console.epoch(0, {"loss": 1.0}, {"accuracy": 0.512, "agreement": 0.7})
    console._drawn = float("-inf")
    console.step(1.5, {"loss": 1.0}, 10.0)
    assert shown == ["loss 1", "loss 1  validation accuracy 0.512"]
