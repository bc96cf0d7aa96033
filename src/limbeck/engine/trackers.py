"""Trackers: scalars of a run in TensorBoard or Weights & Biases, beside the log of record."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from typing import Protocol

from limbeck.engine.run_folder import RunFolder
from limbeck.errors import RecipeError, unknown

TRACKERS = ("tensorboard", "wandb")


class Tracker(Protocol):
    """Anything that takes scalars by name and step."""

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Record scalars."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...


class TensorBoard:
    """Scalars as TensorBoard events in the run's folder."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder.path / "tensorboard"), purge_step=step + 1)

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Record scalars."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class WandB:
    """Scalars to Weights & Biases, under the run's name."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        import wandb

        name = folder.path.name
        self._run = wandb.init(dir=str(folder.path), name=name, id=name, resume="allow")

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Record scalars."""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """Flush and close."""
        self._run.finish()


def make_trackers(names: Iterable[str], folder: RunFolder, step: int) -> list[Tracker]:
    """Open trackers by name (see ``check_trackers``); ``step``: where the run stands."""
    table: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB}
    return [table[name](folder, step) for name in names]  # type: ignore[call-arg]


def check_trackers(names: Iterable[str]) -> None:
    """Raise RecipeError for a tracker that is unknown or not installed."""
    for name in names:
        if name not in TRACKERS:
            raise RecipeError("trackers: " + unknown("tracker", name, TRACKERS))
        if importlib.util.find_spec(name) is None:
            raise RecipeError(f"trackers: {name!r} is not installed; pip install {name}")
