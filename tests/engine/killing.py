"""Runs that are killed for real, and what they leave behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any

import torch._dynamo  # optimisers import it: once in the fork server, not in every child
from children import let_children_import
from five_methods import digits, make_plan

digits()


def train(method: str, folder: Path, resume: bool, kill: dict[str, float] | None) -> None:
    """Child process: train, killing itself by SIGKILL after seconds or inside a sync to disk."""
    from limbeck.engine.running import run_plan

    torch.set_num_threads(1)
    if kill and "seconds" in kill:
        timer = threading.Timer(kill["seconds"], os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    if kill and "sync" in kill:
        die_at_sync(int(kill["sync"]))
    run_plan(make_plan(method), folder, resume=resume, quiet=True)


def die_at_sync(number: int) -> None:
    """Die in the middle of the file operations of a checkpoint, before the n-th sync is done."""
    real, done = os.fsync, [0]

    def fsync(descriptor: int) -> None:
        done[0] += 1
        if done[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    os.fsync = fsync  # type: ignore[assignment]


def spawn(
    method: str, folder: Path, *, resume: bool = False, kill: dict[str, float] | None = None
) -> int:
    """Run ``train`` in a process of its own; return its exit code (-9: it was killed)."""
    let_children_import(Path(__file__).parent)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killing"])
    process = context.Process(target=train, args=(method, folder, resume, kill))
    process.start()
    process.join(timeout=120)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def train_through(method: str, folder: Path, kills: list[dict[str, float]]) -> int:
    """Train to the end through these kills; return how many of them struck."""
    struck = 0
    for kill in kills:
        begun = (folder / "recipe.yaml").exists()
        code = spawn(method, folder, resume=begun, kill=kill)
        struck += code == -signal.SIGKILL
        if code == 0:
            return struck
    begun = (folder / "recipe.yaml").exists()
    assert spawn(method, folder, resume=begun) == 0
    return struck


def evidence(folder: Path) -> dict[str, Any]:
    """All bits that a finished run must share with an undisturbed one."""
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    state = json.loads((last / "state.json").read_text())
    for varying in ("environment",):
        state.pop(varying)
    state["log"].pop("timing_bytes")
    summary = json.loads((folder / "summary.json").read_text())
    for varying in ("seconds", "student", "teachers"):  # wall-clock: seconds, latencies
        summary.pop(varying)
    return {
        "metrics": (folder / "metrics.jsonl").read_bytes(),
        "student": (folder / "student" / "model.safetensors").read_bytes(),
        "predictions": (folder / "predictions.safetensors").read_bytes(),
        "tensors": (last / "tensors.safetensors").read_bytes(),
        "checkpoint": (last.name, state),
        "summary": summary,
    }


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what differs."""
    return [name for name in one if one[name] != other[name]]
