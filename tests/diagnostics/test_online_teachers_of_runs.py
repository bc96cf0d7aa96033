"""A teacher that learned beside its student is diagnosed as it was in the end."""

import json
import shutil
from pathlib import Path

import pytest

from limbeck.diagnostics.of_runs import knowledge_of_run, loyalty_of_run
from limbeck.errors import CheckpointError
from limbeck.recipe.running import run_recipe

RECIPE = {
    "data": {"name": "digits", "num_train": 300},
    "teacher": {"online": {"model": "cnn", "channels": [4, 8]}},
    "student": {"model": "cnn", "channels": [2, 4]},
    "method": "kd",
    "train": {"epochs": 3, "batch_size": 30, "optimizer": {"lr": 0.1}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("online") / "run"
    run_recipe(RECIPE, output=folder, quiet=True)
    return folder


def test_loyalty_is_the_agreement_that_the_run_found(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["teachers"]["teacher"]["metrics"]["test"]["accuracy"] > 0.3  # it has learned
    agreement = summary["metrics"]["test"]["agreement"]
    assert loyalty_of_run(run)["label_loyalty"] == pytest.approx(agreement, abs=1e-6)
    knowledge_of_run(run)


def test_without_a_checkpoint_it_is_one_line(run: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(run, tmp_path / "bare")
    shutil.rmtree(bare / "checkpoints")
    with pytest.raises(CheckpointError, match="no whole checkpoint") as found:
        loyalty_of_run(bare)
    assert "\n" not in str(found.value)


def test_of_another_network_it_is_one_line(run: Path) -> None:
    with pytest.raises(CheckpointError, match="'teacher' does not fit this recipe") as found:
        loyalty_of_run(run, {"teacher.online.channels": [3, 8]})
    assert "\n" not in str(found.value)
