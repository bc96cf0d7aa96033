"""Processes of one machine share its cores, unless somebody said otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from separable_plans import make_separable_plan

import limbeck.engine.threads as threads
from limbeck.engine.distiller import Distiller
from limbeck.engine.running import run_plan


@pytest.fixture(autouse=True)
def _no_torchrun(monkeypatch):
    for name in ("LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "OMP_NUM_THREADS", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def several(monkeypatch, processes: int = 4, cores: int = 18, **variables: str) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr(threads, "_cores", lambda: cores)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_one_process_has_torchs_own_number():
    assert threads.choose_threads(None) == (torch.get_num_threads(), "torch's own")
    assert threads.choose_threads(3) == (3, "train.threads")


def test_several_share_the_cores(monkeypatch):
    several(monkeypatch)
    assert threads.choose_threads(None) == (4, "18 cores for 4 processes")
    several(monkeypatch, cores=1)
    assert threads.choose_threads(None) == (1, "1 core for 4 processes")


def test_what_the_user_said_holds(monkeypatch):
    several(monkeypatch, OMP_NUM_THREADS="7")
    assert threads.choose_threads(None) == (7, "OMP_NUM_THREADS")
    assert threads.choose_threads(2) == (2, "train.threads")
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")  # nested levels: no number of ours
    assert threads.choose_threads(None)[0] == 4
    several(monkeypatch, OMP_NUM_THREADS="1")  # several processes, but no torchrun
    assert threads.choose_threads(None) == (1, "OMP_NUM_THREADS")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc on this system")
@pytest.mark.parametrize("user", [True, False])
def test_torchruns_own_1_is_told_from_the_users(user):
    """A parent that sets the variable only after it was started, as torchrun does."""
    child = (
        "import limbeck.engine.threads as threads\n"
        "threads._cores = lambda: 12\n"
        "print(threads.choose_threads(None))"
    )
    parent = (
        "import os, subprocess, sys\n"
        "os.environ.update(OMP_NUM_THREADS='1', LOCAL_WORLD_SIZE='2', TORCHELASTIC_RUN_ID='x')\n"
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    if user:
        environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", parent], capture_output=True, text=True, env=environment, check=True
    )
    expected = (1, "OMP_NUM_THREADS") if user else (6, "12 cores for 2 processes")
    assert done.stdout.strip() == str(expected)


def test_where_the_parent_cannot_be_read_a_1_is_taken_for_torchruns(monkeypatch):
    several(monkeypatch, OMP_NUM_THREADS="1", TORCHELASTIC_RUN_ID="x")
    monkeypatch.setattr(Path, "read_bytes", _refuse)
    assert threads.choose_threads(None) == (4, "18 cores for 4 processes")


def _refuse(self: Path) -> bytes:
    raise PermissionError


def test_a_run_trains_with_them_and_gives_the_callers_back(monkeypatch, tmp_path):
    several(monkeypatch, processes=3, cores=9)
    before, seen = torch.get_num_threads(), []
    real = Distiller.fit

    def fit(self: Distiller) -> None:
        seen.append(torch.get_num_threads())
        real(self)

    monkeypatch.setattr(Distiller, "fit", fit)
    run_plan(make_separable_plan("kd", epochs=1), tmp_path / "run", quiet=True)
    assert seen == [3]
    assert torch.get_num_threads() == before
