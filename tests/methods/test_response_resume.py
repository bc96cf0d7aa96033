"""Response methods that remember or draw something go on after a stop as if there had been none."""

from __future__ import annotations

from typing import Any

import pytest
from method_runs import log_of, make_plan, run, same_weights

from limbeck.data import load_data
from limbeck.engine import distiller
from limbeck.engine.running import run_plan
from limbeck.engine.signals import Interrupted


@pytest.mark.parametrize("name", ["one", "bss", "mlkd", "pskd", "deit"])
def test_a_resumed_run_equals_an_undisturbed_one(name, tmp_path):
    data = load_data("digits", num_train=64)

    def plan() -> Any:
        return make_plan(name, data=data)

    whole = run(plan(), tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distiller.Distiller, "_asked", lambda self: self.position.step >= 5)
        with pytest.raises(Interrupted):
            run(plan(), tmp_path / "cut")
    resumed = run_plan(plan(), tmp_path / "cut", resume=True, quiet=True)
    assert same_weights(whole.student, resumed.student)
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")


def test_mixtures_are_the_same_after_a_stop(tmp_path):
    data = load_data("digits", num_train=64, augment=[{"mixup": 0.5}])

    def plan() -> Any:
        return make_plan("kd", data=data)

    whole = run(plan(), tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distiller.Distiller, "_asked", lambda self: self.position.step >= 5)
        with pytest.raises(Interrupted):
            run(plan(), tmp_path / "cut")
    resumed = run_plan(plan(), tmp_path / "cut", resume=True, quiet=True)
    assert same_weights(whole.student, resumed.student)
    assert all(record["task"] == 0.0 for record in log_of(tmp_path / "whole"))
