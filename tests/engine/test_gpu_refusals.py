"""What a GPU's user is told in one line, without a GPU."""

import pytest
import torch

from limbeck.cli import ending
from limbeck.engine import environment
from limbeck.engine.distributed import pick_device
from limbeck.engine.running import _told_of_no_deterministic_form
from limbeck.errors import LimbeckError, RecipeError

CUBLAS = """Deterministic behavior was enabled with `torch.use_deterministic_algorithms(True)`, but
this operation is not deterministic because it uses CuBLAS. Set CUBLAS_WORKSPACE_CONFIG=:4096:8."""


def test_the_process_that_has_no_gpu_says_so_itself(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert pick_device() == torch.device("cuda", 0)
    for name, value in (("LOCAL_RANK", "1"), ("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(LimbeckError) as found:
        pick_device()
    assert ending._theirs(found.value) == ending.THEIRS
    said = capsys.readouterr().err
    assert said.startswith(
        "error: process 1: this process has no GPU: of this machine 1 is visible"
    )
    assert "--nproc-per-node=1" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "bincount_cuda does not have a deterministic implementation, but …",
            "form of bincount_cu",
        ),
        (CUBLAS, "set CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment before it starts"),
    ],
)
def test_what_is_not_deterministic_is_told_in_one_line(text, line):
    expected = pytest.raises(RecipeError, match=r"^train\.deterministic: ")
    with expected as found, _told_of_no_deterministic_form():
        raise RuntimeError(text)
    assert line in str(found.value)
    assert len(str(found.value).splitlines()) == 1


def test_other_errors_of_torch_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), _told_of_no_deterministic_form():
        raise RuntimeError("shapes cannot be multiplied")


def test_another_gpu_is_a_difference(monkeypatch):
    here = environment.environment()
    assert here["gpu"] is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    there = {**environment.environment(device="cpu"), "device": "cuda", "gpu": "NVIDIA H200"}
    other = environment.environment(device="cuda")
    assert "gpu was NVIDIA H200, is NVIDIA H100" in environment.differences(there, other)
    old = {key: value for key, value in there.items() if key != "gpu"}
    assert not any(line.startswith("gpu") for line in environment.differences(old, other))
