"""The examples run, each as a user would start it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {"transformers_trainer": "transformers", "lightning_module": "lightning"}
SAYS = {
    "plain_loop": r"student: (0\.\d+)",
    "transformers_trainer": r"16 wide: ([01]\.\d+)",
    "lightning_module": r"'val_accuracy': (0\.\d+)",
    "polynomial": r"teacher: (\d\.\d+) on 8 points",
}


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_an_example_runs_and_its_student_learns(name: str, tmp_path: Path) -> None:
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = re.findall(SAYS[name], done.stdout)
    assert said, done.stdout
    assert float(said[-1]) > 0.5, done.stdout


def test_copies_bring_the_polynomials_together(tmp_path: Path) -> None:
    script = EXAMPLES / "polynomial.py"
    said = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, check=True
    ).stdout
    before, after = (float(number) for number in re.findall(r"\d\.\d+", said))
    assert after < before / 2
    assert "<svg" in (tmp_path / "polynomial.svg").read_text()


def test_the_plain_loop_is_short() -> None:
    code = [line for line in (EXAMPLES / "plain_loop.py").read_text().splitlines() if line.strip()]
    assert len(code) <= 30
