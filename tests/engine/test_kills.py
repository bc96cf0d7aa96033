"""Killed at any moment, a run goes on to the same bits."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from five_methods import METHODS
from killing import differing, evidence, spawn, train_through


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    found = {}
    for method in METHODS:
        folder = tmp_path_factory.mktemp("undisturbed") / method
        assert spawn(method, folder) == 0
        found[method] = evidence(folder)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_two_kills_change_no_bit(
    method: str, undisturbed: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    """One kill inside a checkpoint's file operations, one at a random moment: ten in all."""
    rng = random.Random(method)
    kills = [{"sync": float(rng.randint(8, 30))}, {"seconds": rng.uniform(0.02, 0.12)}]
    assert train_through(method, tmp_path / "run", kills) == 2
    assert differing(undisturbed[method], evidence(tmp_path / "run")) == []


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(8))
@pytest.mark.parametrize("method", METHODS)
def test_many_kills_change_no_bit(
    method: str, trial: int, undisturbed: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    """Forty runs with five kills each: two hundred."""
    rng = random.Random(f"{method}-{trial}")
    kills: list[dict[str, float]] = []
    for _ in range(5):
        if rng.random() < 0.5:
            kills.append({"sync": float(rng.randint(1, 8))})
        else:
            kills.append({"seconds": rng.uniform(0.02, 0.12)})
    assert train_through(method, tmp_path / "run", kills) == 5
    assert differing(undisturbed[method], evidence(tmp_path / "run")) == []
