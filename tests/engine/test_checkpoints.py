"""Checkpoints: whole or absent, verified, refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from limbeck.engine.checkpoint import Snapshot, load_latest, save_checkpoint, sweep
from limbeck.errors import CheckpointError, StorageError


def snapshot(value: float) -> Snapshot:
    return Snapshot({"student/w": torch.full((3,), value)}, {"position": value})


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, snapshot(step), keep=2)
    found, notes = load_latest(tmp_path)
    assert found.state["position"] == 2
    assert torch.equal(found.tensors["student/w"], torch.full((3,), 2.0))
    assert notes == []


def test_only_the_newest_stay(tmp_path: Path) -> None:
    for step in range(5):
        save_checkpoint(tmp_path, step, snapshot(step), keep=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"step-{step:08d}" for step in (2, 3, 4)]


@pytest.mark.parametrize("part", ["tensors.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path: Path, part: str) -> None:
    save_checkpoint(tmp_path, 1, snapshot(1), keep=2)
    newest = save_checkpoint(tmp_path, 2, snapshot(2), keep=2)
    content = bytearray((newest / part).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (newest / part).write_bytes(content)
    found, notes = load_latest(tmp_path)
    assert found.state["position"] == 1
    assert len(notes) == 1
    assert "step-00000002 is damaged" in notes[0]


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, snapshot(1), keep=1)
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "format": 99}))
    with pytest.raises(CheckpointError, match=r"checkpoint format 99, this version reads 1"):
        load_latest(tmp_path)


def test_none_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="none was written yet"):
        load_latest(tmp_path)


def test_what_killed_writers_left_is_swept(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, snapshot(1), keep=1)
    for name in (".writing-00000002", ".trash-step-00000000-77"):
        (tmp_path / name).mkdir()
    sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="Last good checkpoint: none yet") as caught:
        save_checkpoint(tmp_path / "file" / "checkpoints", 1, snapshot(1), keep=1)
    assert "\n" not in str(caught.value)
