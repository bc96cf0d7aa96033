"""Under torchrun one process speaks: every line once, every error once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from limbeck.cli import ending
from limbeck.engine.signals import Interrupted
from limbeck.errors import DataError, RecipeError

RECIPE = """
data: {name: digits, num_train: 200}
student: {model: cnn, channels: [2, 4], norm: none}
teacher: {model: cnn, channels: [3, 5], weights: random}
method: [{name: crd, num_negatives: 20, dim: 8}, {name: sp, weight: 10}]
train: {epochs: 3, batch_size: 50}
"""


def told(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and stderr of a command that ends like this."""

    def command() -> None:
        raise error

    try:
        ending.guarded(command)()
    except ending.typer.Exit as end:
        return end.exit_code, capsys.readouterr().err
    raise AssertionError("the command did not end")


@pytest.fixture
def rank(monkeypatch):
    def be(number: int) -> None:
        monkeypatch.setenv("RANK", str(number))
        monkeypatch.setenv("WORLD_SIZE", "2")

    return be


def test_what_all_processes_know_the_first_says(rank, capsys):
    rank(0)
    assert told(RecipeError("no such thing"), capsys) == (2, "error: no such thing\n")
    rank(1)
    assert told(RecipeError("no such thing"), capsys) == (2, "")


def test_what_one_process_alone_knows_it_says_by_its_number(rank, capsys):
    error = DataError("row 3 is spoilt")
    error.alone = True
    rank(1)
    assert told(error, capsys) == (2, "error: process 1: row 3 is spoilt\n")


def test_a_fault_of_ours_names_the_process(rank, capsys):
    rank(1)
    code, line = told(KeyError("x"), capsys)
    assert code == 1
    assert line.startswith("error: process 1: unexpected KeyError: 'x'; a fault of Limbeck's")


def test_one_process_says_how_to_go_on(rank, capsys):
    rank(0)
    line = "interrupted; go on with: limbeck resume runs/x-0\n"
    assert told(Interrupted("runs/x-0"), capsys) == (130, line)
    rank(1)
    assert told(Interrupted("runs/x-0"), capsys) == (130, "")


def test_an_unknown_option_is_told_once(rank, capsys):
    from limbeck.cli.app import app

    for number, lines in ((0, 1), (1, 0)):
        rank(number)
        assert ending.run_to_end(app, ["run", "--nothing"]) == 2
        assert len(capsys.readouterr().err.splitlines()) == lines


def torchrun(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "-m", "limbeck", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found by /proc")
def test_a_run_whose_second_process_is_killed_is_resumed(tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE.replace("epochs: 3", "epochs: 300"))
    run = torchrun(tmp_path, "run", "r.yaml", "-o", "out")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out" / "checkpoints").glob("step-*")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(second_process(run.pid), signal.SIGKILL)
    out, err = run.communicate(timeout=120)
    assert run.returncode != 0
    assert out.count("processes ") == out.count("task weight ") == 1
    said = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(said) == 1, err[-3000:]
    assert "another process of this job is gone" in said[0]

    resumed = torchrun(tmp_path, "resume", "out")
    deadline = time.monotonic() + 120
    lines = iter(resumed.stdout.readline, "")
    assert any(line.startswith("resumed at epoch") for line in lines)
    assert any(": epoch " in line for line in lines)
    resumed.send_signal(signal.SIGTERM)
    _, err = resumed.communicate(timeout=120)
    assert err.count("interrupted; go on with: limbeck resume out") == 1, err[-3000:]


def second_process(parent: int) -> int:
    """The process of rank 1 among the children of torchrun."""
    for entry in Path("/proc").iterdir():
        try:
            child = f"\nPPid:\t{parent}\n" in (entry / "status").read_text()
            if child and b"\0RANK=1\0" in (entry / "environ").read_bytes():
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError("no second process")
