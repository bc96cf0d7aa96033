"""Killed at any moment, a capture ends in the same bytes; readers beside it see whole shards."""

from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path

import pytest
from cache_jobs import capture, context, read, spawn
from cache_worlds import bytes_in


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("undisturbed") / "c"
    assert spawn(folder) == 0
    found = bytes_in(folder)
    assert len(found) == 3 * 4 + 1
    return found


def _through(folder: Path, kills: list[dict[str, float]]) -> int:
    """Capture through these kills; return how many struck."""
    struck = 0
    for kill in kills:
        struck += spawn(folder, kill) == -signal.SIGKILL
    assert spawn(folder) == 0
    return struck


def _kill(rng: random.Random) -> dict[str, float]:
    """Inside a file operation, or at any moment of the capture."""
    if rng.random() < 0.5:
        return {"sync": float(rng.randint(1, 9))}
    return {"seconds": rng.uniform(0.002, 0.06)}


def test_five_kills_change_no_byte(undisturbed: dict[str, str], tmp_path: Path) -> None:
    kills = [{"sync": 2.0}, {"sync": 6.0}, {"seconds": 0.03}, {"sync": 5.0}, {"sync": 3.0}]
    assert _through(tmp_path / "c", kills) >= 4
    assert bytes_in(tmp_path / "c") == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(20))
def test_a_hundred_kills_change_no_byte(
    trial: int, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    rng, folder, struck = random.Random(trial), tmp_path / "c", 0
    while struck < 5:  # twenty trials of five kills each
        if spawn(folder, _kill(rng)) == -signal.SIGKILL:
            struck += 1
        else:  # the capture was quicker: begin anew
            assert bytes_in(folder) == undisturbed
            shutil.rmtree(folder)
    assert spawn(folder) == 0
    assert bytes_in(folder) == undisturbed


def test_eight_readers_beside_a_writer_see_whole_shards(tmp_path: Path) -> None:
    made = context()
    finished, results = made.Event(), made.Queue()
    readers = [
        made.Process(target=read, args=(tmp_path / "c", finished, results)) for _ in range(8)
    ]
    for reader in readers:
        reader.start()
    writer = made.Process(target=capture, args=(tmp_path / "c", None, 0.03))
    writer.start()
    writer.join(timeout=120)
    finished.set()
    told = [json.loads(results.get(timeout=60)) for _ in readers]
    for reader in readers:
        reader.join(timeout=60)
    assert writer.exitcode == 0
    assert [one["wrong"] for one in told] == [[]] * 8
    assert all(one["seen"] == [0, 1, 2] for one in told)
    assert all(one["beside"] for one in told)


def test_two_writers_of_one_cache_take_turns(undisturbed: dict[str, str], tmp_path: Path) -> None:
    made = context()
    writers = [made.Process(target=capture, args=(tmp_path / "c", None, 0.005)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=120)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert bytes_in(tmp_path / "c") == undisturbed
