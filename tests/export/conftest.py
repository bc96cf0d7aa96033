"""A run to export, and a Python that has never heard of Limbeck."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from digit_runs import train

from limbeck.export import Exported, export_run

BLOCK = """\
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "limbeck":
            raise ImportError("limbeck is not here")

sys.meta_path.insert(0, Nothing())
"""


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small convolutional student of the digits; tests export it elsewhere."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run") / "cnn"
    return train(folder, {"model": "cnn", "channels": [16, 32]}, epochs=6)


@dataclass(frozen=True)
class Done:
    """An export, and what it said."""

    exported: Exported
    lines: list[str]


@pytest.fixture(scope="session")
def exports(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Done]:
    """The run's student in each format, made once."""

    @cache
    def made(to: str) -> Done:
        lines: list[str] = []
        place = tmp_path_factory.mktemp("exports") / to
        exported = export_run(
            run_folder, to, output=place, samples=200, calibration=64, say=lines.append
        )
        return Done(exported, lines)

    return made


@pytest.fixture
def elsewhere() -> Callable[[Path, str], str]:
    """Run code in a fresh process, in a folder, where Limbeck cannot be imported."""

    def run(folder: Path, code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", BLOCK + code],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run
