"""Sides of a benchmark that take turns, in processes of their own."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.peers.sides import SIDES
from benchmarks.turns import Absent, Worker, take_turns

SIDE = """
from pathlib import Path
from benchmarks.turns import Turns

def work():
    print("what a side prints does not disturb")
    with Path("{order}").open("a") as file:
        file.write("{name}")

Turns().run(work)
"""
ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[2])}


def test_sides_work_in_turn_forwards_and_backwards(tmp_path: Path) -> None:
    order = tmp_path / "order"
    workers = {}
    for name in "ABC":
        script = SIDE.format(order=order, name=name)
        workers[name] = Worker(["-c", script], ENVIRONMENT, tmp_path / name)
    turns = take_turns(workers, 3)
    for worker in workers.values():
        worker.close()
    assert order.read_text() == "ABC" + "CBA" + "ABC"
    assert all(len(took) == 3 for took in turns.values())
    assert all(turn["wall"] > 0 for took in turns.values() for turn in took)
    assert all(5 < worker.memory < 1000 for worker in workers.values())  # MiB, of bare Python
    assert "does not disturb" in (tmp_path / "A").read_text()


def test_a_side_that_does_not_run_says_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(Absent, match="No module named 'not_there'"):
        Worker(["-c", "import not_there"], ENVIRONMENT, tmp_path / "log")


def test_a_peer_that_is_absent_is_told_in_a_line_with_what_brings_it(tmp_path: Path) -> None:
    side = next(side for side in SIDES if side.script == "torchdistill")
    with pytest.raises(Absent, match=r"^torchdistill is not there: pip install .* torchdistill$"):
        side.start(tmp_path, tmp_path / "log", images=16)


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_the_lines_of_a_user_are_counted(side) -> None:
    assert 15 < side.lines < 70
