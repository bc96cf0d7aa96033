"""Two real processes under torchrun, or several micro-batches, against one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from killing import differing, evidence
from safetensors.torch import load_file
from separable_plans import COUPLED, PLANS, make_separable_plan
from torch import Tensor

from limbeck.engine.running import run_plan

ALL = [*PLANS, *COUPLED]
KEPT = ("student", "runtime", "teacher", "view")
JOB = Path(__file__).with_name("ddp_job.py")


def torchrun(*arguments: str, ranks: int = 2, dies: bool = False) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, f"--nproc-per-node={ranks}", str(JOB), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert (done.returncode != 0) == dies, done.stderr[-3000:]


def final_tensors(run: Path) -> dict[str, Tensor]:
    """Weights of student and adapters, and values, in the last checkpoint."""
    last = sorted((run / "checkpoints").glob("step-*"))[-1]
    tensors = load_file(last / "tensors.safetensors")
    kept = {k: v for k, v in tensors.items() if k.startswith(KEPT)}
    # a digest of weights: those that are equal to rounding have another
    return {k: v for k, v in kept.items() if not k.endswith("taken_of")}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ranks")
    torchrun(str(root), ",".join(ALL))
    return root


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("one")
    for name in ALL:
        run_plan(make_separable_plan(name), root / name, quiet=True)
    return root


def assert_same_training(one: Path, other: Path) -> None:
    ours, theirs = final_tensors(one), final_tensors(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        gap = (ours[name].double() - theirs[name].double()).abs().max()
        assert gap <= 2e-5, f"{name}: {gap:.1e}"


@pytest.mark.parametrize("name", ALL)
def test_two_ranks_equal_one_process(name: str, two_ranks: Path, one_process: Path) -> None:
    assert_same_training(one_process / name, two_ranks / name)
    one, two = ((root / name / "metrics.jsonl").read_text() for root in (one_process, two_ranks))
    for line, other in zip(one.splitlines(), two.splitlines(), strict=True):
        ours, theirs = json.loads(line), json.loads(other)
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            expected = value if isinstance(value, str) else pytest.approx(value, rel=1e-3, abs=1e-4)
            assert theirs[key] == expected, key


@pytest.mark.parametrize("name", ["kd", "staged_hint", "dml", "kcd", "backward", "svrg"])
def test_micro_batches_equal_one_batch(name: str, one_process: Path, tmp_path: Path) -> None:
    run_plan(make_separable_plan(name, accumulate=3), tmp_path / name, quiet=True)
    assert_same_training(one_process / name, tmp_path / name)


@pytest.mark.parametrize(
    "name",
    ["crd", *(pytest.param(one, marks=pytest.mark.slow) for one in ("staged_hint", "kcd", "svrg"))],
)
def test_two_killed_ranks_go_on_to_the_same_bits(
    name: str, two_ranks: Path, tmp_path: Path
) -> None:
    torchrun(str(tmp_path), name, "25", dies=True)
    torchrun(str(tmp_path), name)
    assert differing(evidence(two_ranks / name), evidence(tmp_path / name)) == []
