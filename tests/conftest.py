"""Shared fixtures."""

import os
import sys
from pathlib import Path

import pytest
import torch

SHIM = str(Path(__file__).with_name("shim"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SHIM, os.environ.get("PYTHONPATH")]))
sys.path.insert(0, SHIM)
import sitecustomize  # noqa: E402, F401  # the shim, here and in every process that tests start


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets used in development; tests that need it skip without it."""
    folder = os.environ.get("LIMBECK_DATA")
    path = Path(folder) if folder else Path(__file__).parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip("no data folder: set LIMBECK_DATA to a folder with the development data sets")
    return path


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)
