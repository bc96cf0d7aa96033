"""The Distiller's own loop, begun and held: an epoch at a time, evaluation left out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from limbeck.engine.distiller import Distiller
from limbeck.engine.distributed import World, pick_device
from limbeck.engine.logbook import Console
from limbeck.engine.measuring import Judge
from limbeck.engine.plan import Plan
from limbeck.engine.run_folder import RunFolder
from limbeck.engine.setup import assemble


def begun(plan: Plan) -> Distiller:
    """Return a run before its first epoch, in a folder of its own, on the GPU if there is one."""
    world = World(device=pick_device())
    parts = assemble(plan, world)
    folder = RunFolder(Path(tempfile.mkdtemp()))
    folder.create({}, plan.name)
    run = Distiller(plan, folder, world, Console(1, quiet=True), parts, Judge(plan, parts, world))
    run.enter_stage()
    return run


def epochs_of(run: Distiller) -> Callable[[], None]:
    """Return what trains one more epoch at each call."""

    def once() -> None:
        run._train_epoch()
        run.position.epoch += 1
        run.position.step_in_epoch = 0

    return once
