"""What the tests of a review share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from five_methods import make_plan, teacher_network

from limbeck.engine.distiller import Distiller
from limbeck.engine.plan import Plan
from limbeck.engine.running import run_plan
from limbeck.methods import as_methods
from limbeck.teachers.live import LiveTeacher
from limbeck.teachers.peers import PeersTeacher


class Stop(BaseException):
    """Stands for a kill."""


def lines(run: Path, kind: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == kind]


def stop_after(steps: int, plan: Plan, folder: Path) -> None:
    """Train for some steps, then die as if killed."""
    real, done = Distiller._train_step, [0]

    def counted(self: Distiller, *args: Any) -> None:
        if done[0] == steps:
            raise Stop
        done[0] += 1
        real(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distiller, "_train_step", counted)
        with pytest.raises(Stop):
            run_plan(plan, folder, quiet=True)


def cohort_plan(*methods: Any, **train: Any) -> Plan:
    """A cohort of two with a live teacher and peers."""
    return replace(
        make_plan("dml", ema=None, **train),
        teachers={"teacher": LiveTeacher(teacher_network()), "peers": PeersTeacher()},
        methods=as_methods(list(methods)),
    )
