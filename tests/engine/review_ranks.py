"""One of two ranks of a job, forked with torch loaded: what ranks must do together."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from children import let_children_import
from separable_plans import make_separable_plan

import limbeck.engine.keeping as keeping
import limbeck.engine.running as running
from limbeck.engine.distiller import Distiller
from limbeck.engine.settings import Checkpoints
from limbeck.engine.step import StepModule
from limbeck.errors import NonFiniteError, StorageError


def run_two_ranks(root: Path) -> list[int | None]:
    """Run ``job`` on two ranks; return their exit codes. What they found is in ``root``."""
    let_children_import(Path(__file__).parent)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killing"])
    processes = [context.Process(target=job, args=(rank, root)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=90)
        if process.exitcode is None:
            process.kill()
    return [process.exitcode for process in processes]


def job(rank: int, root: Path) -> None:
    """Resume before the first checkpoint; wait for a late rank; meet a full disk, and NaN."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group(
        "gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=2
    )
    plan = replace(make_separable_plan("kd", epochs=1), checkpoints=Checkpoints(every_epochs=9))

    def train(name: str, resume: bool = False) -> str:
        outcome = running.run_plan(plan, root / name, resume=resume, quiet=True)
        return str(outcome.summary["status"])

    told = []
    _stop_early(lambda: train("early"))
    told.append(train("early", resume=True))
    running.assemble = _slow(running.assemble, rank == 1)  # rank 0 makes the folder meanwhile
    keeping.write_bytes = _slow(keeping.write_bytes, rank == 0)  # rank 1 wants to read it
    told.append(train("slow"))
    whole, keeping.save_checkpoint = keeping.save_checkpoint, _full
    try:
        train("full")
    except StorageError as error:
        told.append(str(error))
    keeping.save_checkpoint = whole
    try:
        with _nan_on(rank == 1):
            train("nan")
    except NonFiniteError as error:
        told.append(str(error).split(";")[0])
    dist.destroy_process_group()
    (root / f"rank-{rank}").write_text(", ".join(told))


def _stop_early(train: Callable[[], Any]) -> None:
    real, done = Distiller._train_step, [0]

    def stop(self: Distiller, *args: Any) -> None:
        done[0] += 1
        if done[0] == 3:
            raise KeyboardInterrupt
        real(self, *args)

    Distiller._train_step = stop  # type: ignore[method-assign]
    try:
        train()
    except KeyboardInterrupt:
        dist.barrier()
    Distiller._train_step = real  # type: ignore[method-assign]


def _slow(real: Callable[..., Any], here: bool) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        time.sleep(0.7 if here else 0.0)
        return real(*args)

    return call


@contextmanager
def _nan_on(here: bool) -> Iterator[None]:
    """Let the knowledge term of the second step be NaN, on this rank or not."""
    real, done = StepModule.forward, [0]

    def forward(self: StepModule, *args: Any) -> Any:
        loss, terms = real(self, *args)
        done[0] += 1
        if here and done[0] == 2:
            return loss * float("nan"), terms | {"kd": terms["kd"] * float("nan")}
        return loss, terms

    StepModule.forward = forward  # type: ignore[method-assign]
    yield
    StepModule.forward = real  # type: ignore[method-assign]


def _full(*args: Any, **options: Any) -> None:
    raise StorageError("no space left")
