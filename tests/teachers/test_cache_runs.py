"""Whole runs from a cache have the losses of the live teacher, resumed and on two ranks too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cache_worlds import bytes_in, digits, network
from torch import Tensor, nn

import limbeck as lb
from limbeck.engine.signals import Interrupted
from limbeck.errors import LimbeckError
from limbeck.teachers import CachedTeacher, LiveTeacher, Teacher
from limbeck.teachers.cache import read_manifest, shards

SETTINGS = {"views": 2, "log_every": 1}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 64)
    torch.set_num_threads(1)


def distill(teacher: Teacher, folder: Path, **options: Any) -> list[dict[str, Any]]:
    """Train a student with dropout (its randomness must not move) and return what was logged."""
    train = {**SETTINGS, **options.pop("train", {})}
    torch.manual_seed(5)
    student = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10)
    )
    lb.distill(
        **{
            "teacher": teacher,
            "student": student,
            "data": digits(),
            "output": folder,
            "quiet": True,
            "epochs": 5,
            "batch_size": 32,
            "train": train,
            **options,
        }
    )
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"train": {"accumulate": 3}},
        {"method": [{"name": "fitnet", "hint_epochs": 1}, "kd"], "student": "cnn"},
        {"method": ["kd", {"name": "kcd", "stage_epochs": 2, "tau": 0.6}]},
        {"train": {"precision": "bfloat16"}},
    ],
    ids=["kd", "micro-batches", "fitnet", "kcd mixes samples", "bfloat16"],
)
def test_the_losses_are_those_of_the_live_teacher_bit_for_bit(
    options: dict[str, Any], tmp_path: Path
) -> None:
    live = distill(LiveTeacher(network()), tmp_path / "live", **options)
    codec = {"features": "float32"}
    teacher = CachedTeacher(network(), tmp_path / "cache", codec=codec)
    assert distill(teacher, tmp_path / "first", **options) == live
    again = CachedTeacher(network(), tmp_path / "cache", codec=codec)
    assert distill(again, tmp_path / "second", **options) == live
    assert list(read_manifest(tmp_path / "cache").views) == ["0", "1"]


def test_an_interrupted_run_goes_on_to_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = distill(LiveTeacher(network()), tmp_path / "live")
    asked = 0

    class Stopping(CachedTeacher):
        def ask(self, batch: Any, **options: Any) -> Any:
            nonlocal asked
            asked += 1
            if asked == 12:  # within the second epoch, whose view was just captured
                os.kill(os.getpid(), 2)
            return super().ask(batch, **options)

    with pytest.raises(Interrupted):
        distill(Stopping(network(), tmp_path / "cache"), tmp_path / "run")
    resumed = distill(CachedTeacher(network(), tmp_path / "cache"), tmp_path / "run", resume=True)
    assert resumed == live


def test_smaller_forms_learn_the_same_to_their_measured_divergence(tmp_path: Path) -> None:
    live = distill(LiveTeacher(network()), tmp_path / "live")[-1]["nll"]
    half = distill(CachedTeacher(network(), tmp_path / "c", codec="float16"), tmp_path / "half")
    assert half[-1]["nll"] == pytest.approx(live, rel=1e-3)
    for codec in ({"name": "topk", "k": 5}, {"name": "sampled", "rounds": 200}):
        codec = {**codec, "temperature": 4.0}
        name = str(codec["name"])
        other = distill(
            CachedTeacher(network(), tmp_path / name, codec=codec), tmp_path / f"r{name}"
        )
        assert other[-1]["nll"] == pytest.approx(live, rel=0.1)


def test_a_cache_of_other_weights_stops_the_run(tmp_path: Path) -> None:
    distill(CachedTeacher(network(), tmp_path / "cache"), tmp_path / "run", epochs=1)
    with pytest.raises(LimbeckError, match="teacher differs"):
        distill(CachedTeacher(network(2), tmp_path / "cache"), tmp_path / "other", epochs=1)


RANKS = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = sys.argv[2:]
from cache_worlds import digits, network, small_shards
small_shards()
import limbeck as lb
from limbeck.engine.distributed import joined_world
from limbeck.teachers import CachedTeacher, LiveTeacher
root = Path(sys.argv[1])
with joined_world():
    for name in ("live", "cached"):
        teacher = LiveTeacher(network()) if name == "live" else CachedTeacher(network(), root / "c")
        lb.distill(teacher=teacher, student="mlp", data=digits(), epochs=3, batch_size=32,
                   train={"views": 2, "log_every": 1}, output=root / name, quiet=True)
"""


def test_two_ranks_write_their_shares_and_learn_the_same_bits(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(RANKS)
    here = str(Path(__file__).parent)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(script), str(tmp_path), here],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    live, kept = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("live", "cached"))
    assert live == kept
    manifest = read_manifest(tmp_path / "c")
    assert list(manifest.views) == ["0", "1"]
    assert len(manifest.views["0"]["shards"]) == 4  # 230 rows at 64
    assert len(bytes_in(tmp_path / "c")) == 9


def test_a_stranger_to_eval_mode_is_no_cache(tmp_path: Path) -> None:
    """A teacher with dropout answers in eval mode, so its cache has no randomness in it."""

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.drop = network(), nn.Dropout(0.5)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.drop(self.body(inputs))

    live = distill(LiveTeacher(Dropping()), tmp_path / "live", epochs=2)
    assert distill(CachedTeacher(Dropping(), tmp_path / "c"), tmp_path / "run", epochs=2) == live
