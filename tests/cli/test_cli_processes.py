"""Real processes: pipes that close, and Ctrl-C in the middle of training."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CALL = [sys.executable, "-c", "from limbeck.cli import main; main()"]


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "LIMBECK_HOME": str(folder / "home")}


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*CALL, "schema"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(tmp_path),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 0


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT for a single process")
def test_ctrl_c_leaves_a_checkpoint_and_the_line_that_resumes(tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text(
        "data: digits\nstudent: {model: cnn, channels: [2, 4]}\nmethod: plain\n"
        "train: {epochs: 5000}\n"
    )
    process = subprocess.Popen(
        [*CALL, "run", "long.yaml", "-o", "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=_environment(tmp_path),
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out" / "checkpoints").glob("step-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "interrupted; go on with: limbeck resume out"
    assert "Traceback" not in out + err
