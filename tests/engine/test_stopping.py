"""Ctrl-C, a full disk, a loss that explodes: one line, nothing lost, the same bits after."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from five_methods import make_plan
from killing import differing, evidence

from limbeck.engine.running import run_plan
from limbeck.engine.settings import Optimizer
from limbeck.engine.signals import Interrupted
from limbeck.errors import CheckpointError, NonFiniteError, RecipeError, StorageError


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """A forked child can use no more, and bits are compared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    run_plan(make_plan("kd"), folder, quiet=True)
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_to_the_same_bits(
    number: signal.Signals, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal arrives between two steps that have no checkpoint of their own."""
    import limbeck.engine.distiller as distiller

    real, steps = distiller.Distiller._train_step, [0]

    def interrupted_step(self: object, *args: object) -> None:
        real(self, *args)  # type: ignore[arg-type]
        steps[0] += 1
        if steps[0] == 7:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(distiller.Distiller, "_train_step", interrupted_step)
    with pytest.raises(Interrupted) as caught:
        run_plan(make_plan("kd"), tmp_path / "run", quiet=True)
    assert caught.value.run == str(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"
    assert (tmp_path / "run" / "checkpoints" / "step-00000007").is_dir()
    monkeypatch.undo()
    run_plan(make_plan("kd"), tmp_path / "run", resume=True, quiet=True)
    assert differing(evidence(undisturbed), evidence(tmp_path / "run")) == []


def test_ctrl_c_on_the_command_line_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from limbeck.cli import main; main()"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: long\ndata: {name: digits}\nstudent: {model: mlp}\nmethod: plain\n"
        "train: {epochs: 100000}\n"
    )
    process = subprocess.Popen(
        [*command, "run", str(recipe), "-o", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 60
    while not any((tmp_path / "run" / "checkpoints").glob("step-*")):
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == f"interrupted; go on with: limbeck resume {tmp_path / 'run'}"


def test_a_full_disk_stops_the_run_and_keeps_the_last_checkpoint(
    undisturbed: Path, tmp_path: Path
) -> None:
    """A limit on file size stands for the full disk: the write of the bytes itself fails."""
    run_folder = tmp_path / "run"
    pid = os.fork()
    if pid == 0:  # the limit would hold for the test runner too
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            import limbeck.engine.checkpoint as checkpoint

            real, written = checkpoint._write_parts, [0]

            def write_parts(*args: object) -> None:
                written[0] += 1
                if written[0] == 4:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
                real(*args)  # type: ignore[arg-type]

            checkpoint._write_parts = write_parts  # type: ignore[assignment]
            try:
                run_plan(make_plan("kd"), run_folder, quiet=True)
            except StorageError as error:
                (tmp_path / "message").write_text(str(error))
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    message = (tmp_path / "message").read_text()
    assert "file-size limit" in message
    assert "Last good checkpoint: step-" in message
    assert "\n" not in message
    assert not list((run_folder / "checkpoints").glob(".writing-*"))
    run_plan(make_plan("kd"), run_folder, resume=True, quiet=True)
    assert differing(evidence(undisturbed), evidence(run_folder)) == []


def test_an_exploding_loss_names_step_term_and_checkpoint(tmp_path: Path) -> None:
    plan = make_plan("kd", optimizer=Optimizer(lr=1e12), clip_norm=None)
    with pytest.raises(NonFiniteError, match=r"step \d+ .* from (kd|task).*last good checkpoint"):
        run_plan(plan, tmp_path / "run", quiet=True)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


def test_a_run_is_not_overwritten(undisturbed: Path) -> None:
    with pytest.raises(RecipeError, match="holds a run already; continue it with"):
        run_plan(make_plan("kd"), undisturbed, quiet=True)


def test_resuming_nothing_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such run folder"):
        run_plan(make_plan("kd"), tmp_path / "none", resume=True, quiet=True)


def test_resuming_by_another_recipe_is_refused(undisturbed: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(undisturbed, tmp_path / "run")
    with pytest.raises(CheckpointError, match="does not fit this recipe"):
        run_plan(make_plan("dml"), tmp_path / "run", resume=True, quiet=True)
