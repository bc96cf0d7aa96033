"""Run folders that several tests read."""

from pathlib import Path

import other_run_folders
import pytest
import run_folders


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms × three seeds on digits, one teacher."""
    root = tmp_path_factory.mktemp("study")
    run_folders.write_study(root, seeds=3)
    return root


@pytest.fixture(scope="session")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms × two seeds on a table, no teacher."""
    root = tmp_path_factory.mktemp("regression")
    for seed in range(2):
        other_run_folders.write_regression_run(root / f"small-{seed}", "small", seed, width=3)
        other_run_folders.write_regression_run(root / f"large-{seed}", "large", seed, width=16)
    return root


@pytest.fixture(scope="session")
def multilabel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One arm × one seed with three labels a sample."""
    root = tmp_path_factory.mktemp("multilabel")
    other_run_folders.write_multilabel_run(root / "run", "questions", 0)
    return root
