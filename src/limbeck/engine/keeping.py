"""The Keeper: checkpoints, the best student, and going on from where a run stopped."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from limbeck.data import View
from limbeck.engine.asking import members_of
from limbeck.engine.checkpoint import (
    Snapshot,
    load_latest,
    pack,
    pack_optimizer,
    save_checkpoint,
    sweep,
    unpack,
    unpack_optimizer,
)
from limbeck.engine.environment import differences, environment
from limbeck.engine.gradients import refuse_non_finite_weights
from limbeck.engine.measuring import Verdict
from limbeck.engine.progress import Best, Position
from limbeck.errors import CheckpointError
from limbeck.files import write_bytes
from limbeck.methods.base import Runtime

if TYPE_CHECKING:
    from limbeck.engine.distiller import Distiller


class Keeper:
    """Writes and reads all that a run needs to go on.

    Args:
        run: the Distiller whose state is kept.
    """

    def __init__(self, run: Distiller) -> None:
        self._run = run
        self._folder = run.folder.checkpoints
        self._best_folder = run.folder.path / "best"
        self.best = Best()
        self.last: str | None = None

    # The best student.

    def consider(self, verdict: Verdict) -> dict[str, float]:
        """Keep the student where it beats all before it; return its scores."""
        position = self._run.position
        if verdict.value is not None and self.best.beaten_by(verdict.value, higher=verdict.higher):
            name = f"epoch-{position.epoch:05d}.safetensors"
            self.best = Best(verdict.value, position.epoch, verdict.member, name)
            if self._run.train.deploy != "last":
                self._run.world.lead(lambda: self._write_best(name))
        if self._run.train.deploy == "last":
            self.best = dataclasses.replace(self.best, member=verdict.member)
        return dict(verdict.scores)

    def _write_best(self, name: str) -> None:
        write_bytes(self._best_folder / name, save(_own(self._run.deployable)))

    def keep_epoch(self) -> None:
        """Keep the student of the epoch that has ended as deployed, where that was asked for."""
        epoch = self._run.position.epoch
        if epoch in self._run.plan.checkpoints.keep_epochs:
            path = self._run.folder.epoch_file(epoch)
            self._run.world.lead(lambda: write_bytes(path, save(_own(self._as_deployed()))))

    def _as_deployed(self) -> nn.Module:
        """Return what would be deployed now; the student that is trained stays as it is."""
        module, (student,) = self._run.parts.module, members_of(self._run.deployable)
        strips = [type(one).deploy is not Runtime.deploy for one in module.member_runtimes(0)]
        return module.stripped(copy.deepcopy(student)) if any(strips) else student

    def restore_best(self) -> None:
        """Give the deployable student the weights of its best epoch."""
        if self.best.value is None or self._run.train.deploy == "last":
            return
        path = self._best_folder / self.best.file
        try:
            self._run.deployable.load_state_dict(load_file(path))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"{path}: the best student cannot be read ({error})") from error

    # Checkpoints.

    def save(self) -> None:
        """Write a checkpoint of the present position. Every rank must call it.

        Raises:
            NonFiniteError: weights became NaN or infinite; no checkpoint is made of them.
            StorageError: it cannot be written.
        """
        run = self._run
        # the same on all ranks, so that all of them raise
        where = str(run.position)
        refuse_non_finite_weights(run.parts.module, where=where, last=self.last)
        for runtime in run.parts.module.each_runtime():
            runtime.synchronize(run.parts.ctx)
        run.world.align(run.parts.student)
        run.world.align(run.parts.module.learners)
        log = run.logbook.state()
        run.world.lead(lambda: self._write(*log))

    def _write(self, log_tensors: Mapping[str, Tensor], log_state: Mapping[str, Any]) -> None:
        run = self._run
        optimizer_tensors, optimizer_state = pack_optimizer(run.optimizer)
        tensors = {
            **self._module_tensors(),
            **optimizer_tensors,
            **log_tensors,
            **pack("view", run.view.state_dict()),
        }
        state = {
            "position": dataclasses.asdict(run.position),
            "seed": run.plan.seed,
            "best": dataclasses.asdict(self.best),
            "optimizer": optimizer_state,
            "log": log_state,
            "rate": run.rate,
            "random": _random_state(),
            "environment": environment(run.world.size, run.world.device.type),
        }
        keep = run.plan.checkpoints.keep
        path = save_checkpoint(self._folder, run.position.step, Snapshot(tensors, state), keep=keep)
        self.last = path.name
        self._prune_best()

    def restore(self) -> list[str]:
        """Return to the newest whole checkpoint.

        Returns:
            lines worth telling: damaged checkpoints, and what differs of the machine.
        """
        run = self._run
        snapshot, notes = self._read()
        state, tensors = snapshot.state, snapshot.tensors
        run.position = Position(**state["position"])
        self.best = Best(**state["best"])
        self.last = f"step-{run.position.step:08d}"
        run.rate = state["rate"]
        self._load_modules(tensors)
        run.view = View.from_state_dict(run.view.samples, unpack("view", tensors))
        run.logbook.restore(unpack("log", tensors), state["log"])
        run.logbook.begin(run.position.step)
        if run.position.epoch < run.train.epochs:
            run.enter_stage()
            self._load_optimizer(tensors, state)
        _set_random_state(state["random"])
        now = environment(run.world.size, run.world.device.type)
        changed = differences(state["environment"], now)
        if changed:
            notes.append(
                "the run goes on, but not to the same bits as if it had not stopped: "
                + "; ".join(changed)
            )
        return notes

    def _read(self) -> tuple[Snapshot, list[str]]:
        """Read the newest whole checkpoint: rank 0 first, which puts damaged ones away."""
        found: list[tuple[Snapshot, list[str]]] = []

        def look() -> None:
            sweep(self._folder)
            found.append(load_latest(self._folder))

        self._run.world.lead(look)
        snapshot, notes = found[0] if found else load_latest(self._folder)
        seed = snapshot.state["seed"]
        if seed != self._run.plan.seed:
            raise CheckpointError(
                f"{self._folder}: the run was begun with seed {seed}, expected "
                f"{self._run.plan.seed}; go on with its own recipe"
            )
        return snapshot, notes

    def _load_optimizer(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore the optimiser, unless a new stage begins with a fresh one."""
        from limbeck.engine.progress import stage_at

        run = self._run
        _, start = stage_at(run.parts.stages, run.position.epoch)
        if run.position.epoch == start and run.position.step_in_epoch == 0:
            return
        unpack_optimizer(run.optimizer, tensors, state["optimizer"])

    def _modules(self) -> dict[str, nn.Module]:
        """All modules with a state of their own, by the name they have in a checkpoint."""
        run = self._run
        modules: dict[str, nn.Module] = {"student": run.parts.student}
        for index, runtime in enumerate(run.parts.runtimes):
            modules[f"runtime.{index}"] = runtime
        if run.average is not None:
            modules["average"] = run.average
        for name, teacher in run.parts.teachers.items():
            if teacher.changes and teacher.state is not None:
                modules[f"teacher.{name}"] = teacher.state
        return modules

    def _module_tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for prefix, module in self._modules().items():
            tensors |= pack(prefix, module.state_dict())
        return tensors

    def _load_modules(self, tensors: Mapping[str, Tensor]) -> None:
        for prefix, module in self._modules().items():
            try:
                module.load_state_dict(unpack(prefix, tensors))
            except RuntimeError as error:
                first = " ".join(str(error).split())[:300]
                raise CheckpointError(
                    f"{self._folder}: the checkpoint does not fit this recipe ({prefix}: {first})"
                ) from error

    def _prune_best(self) -> None:
        """Drop best students that neither this run nor a retained checkpoint refers to."""
        wanted = {self.best.file}
        for path in self._folder.glob("step-*/state.json"):
            wanted.add(_best_named_in(path))
        for file in self._best_folder.glob("epoch-*.safetensors"):
            if file.name not in wanted:
                file.unlink(missing_ok=True)


def _best_named_in(path: Path) -> str:
    try:
        return str(json.loads(path.read_text())["best"]["file"])
    except (OSError, ValueError, KeyError):
        return ""


def _own(module: nn.Module) -> dict[str, Tensor]:
    """State dict with storage of its own for every tensor (tied weights are written twice)."""
    return {
        name: value.detach().cpu().clone().contiguous()
        for name, value in module.state_dict().items()
    }


def _random_state() -> dict[str, Any]:
    """State of Python's and NumPy's global generators, which users' data sets may draw from."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [str(name), np.asarray(keys).tolist(), int(position), int(has_gauss), cached],
    }


def _set_random_state(state: Mapping[str, Any]) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(  # noqa: NPY002
        (name, np.array(keys, dtype=np.uint32), position, has_gauss, cached)
    )
