"""Feature methods with a state of their own go on after a stop as if there had been none."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from feature_runs import plain_cnn
from method_runs import log_of, make_plan, run, same_weights

from limbeck.engine import distiller
from limbeck.engine.running import run_plan
from limbeck.engine.signals import Interrupted
from limbeck.teachers.live import LiveTeacher

STATEFUL = ["vid", "cc", "fsp", "ab", "ft", "ofd", "ofd_measured", "reviewkd", "famkd", "blockkd"]
STATEFUL += ["mgd", "sskd"]


@pytest.mark.parametrize("name", STATEFUL)
def test_a_resumed_run_equals_an_undisturbed_one_and_fits_nothing_again(name, tmp_path):
    def plan() -> Any:
        short = {"fit_epochs": 2} if name == "sskd" else {}
        made = make_plan({"name": name.removesuffix("_measured"), **short})
        if name != "ofd_measured":
            return made
        return dataclasses.replace(made, teachers={"teacher": LiveTeacher(plain_cnn())})

    whole = run(plan(), tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distiller.Distiller, "_asked", lambda self: self.position.step >= 5)
        with pytest.raises(Interrupted):
            run(plan(), tmp_path / "cut")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distiller, "fit_runtimes", lambda *_: pytest.fail("fitted again"))
        resumed = run_plan(plan(), tmp_path / "cut", resume=True, quiet=True)
    assert same_weights(whole.student, resumed.student)
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")
