"""Every method on a GPU: its contracts, the CPU's values and gradients, and a training."""

import json

import pytest
import torch
from method_runs import default_dtype, log_of, make_plan, run

from limbeck.engine.settings import Optimizer
from limbeck.methods import all_methods
from limbeck.testing import check_method
from limbeck.testing.scene import make_scene

NAMES = list(all_methods())
OWN = {"backward": {"epochs": 6}, "lad": {"optimizer": Optimizer(lr=1e-4)}}


def plan_of(name: str, **train):
    return make_plan(name, **{**OWN.get(name, {}), **train})


@pytest.mark.parametrize("name", NAMES)
def test_contracts(name):
    assert "unwritten" in check_method(name, device="cuda").held


@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_those_of_the_cpu(name):
    method = all_methods()[name]()
    near = 1e-9 if method.card.data_modification == "none" else 1e-7  # new inputs are float32
    for task in method.card.tasks:
        here, there = (make_scene(method, task, device=device) for device in ("cpu", "cuda"))
        ours, slopes = there.differentiated()
        terms, exact = here.differentiated()
        assert ours.keys() == terms.keys()
        for key, value in terms.items():
            assert ours[key].device.type == "cuda"
            torch.testing.assert_close(ours[key].cpu(), value, rtol=near, atol=near / 1000)
        for one, other in zip(slopes, exact, strict=True):
            torch.testing.assert_close(one.cpu(), other, rtol=100 * near, atol=near / 10)


@pytest.mark.parametrize("name", NAMES)
def test_it_trains(name, tmp_path):
    outcome = run(plan_of(name), tmp_path / "run")
    assert all(value.device.type == "cuda" for value in outcome.student.state_dict().values())
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["device"] == "cuda"
    assert len(log_of(tmp_path / "run")) == outcome.summary["steps"]


@pytest.mark.parametrize("name", ["plain", "kd", "dkd", "at", "fitnet", "rkd", "sp", "pkt", "mgd"])
def test_the_first_losses_are_those_of_the_cpu(name, tmp_path, monkeypatch):
    """In float64, from the same start on the same samples."""
    logs = []
    for device in ("cuda", "cpu"):
        with monkeypatch.context() as patch:
            target = torch.device(device)
            patch.setattr("limbeck.engine.distributed.pick_device", lambda d=target: d)
            with default_dtype(torch.float64):
                run(plan_of(name, wide=True), tmp_path / device)
        logs.append(log_of(tmp_path / device))
    assert len(logs[0]) == len(logs[1]) > 3
    for ours, theirs in zip(*(log[:4] for log in logs), strict=True):
        for key, value in theirs.items():
            if isinstance(value, float) and "/s" not in key and "seconds" not in key:
                assert ours[key] == pytest.approx(value, rel=1e-6, abs=1e-9), key
