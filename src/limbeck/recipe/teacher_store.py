"""Teacher store: teachers that are recipes, trained once and found again by content."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from limbeck.data.bundle import DataBundle
from limbeck.engine.distributed import joined_world
from limbeck.engine.run_folder import RunFolder
from limbeck.errors import LimbeckError
from limbeck.files import held
from limbeck.recipe.resolved import recipe_digest, resolved
from limbeck.recipe.schema import Recipe

if TYPE_CHECKING:
    from limbeck.engine.plan import Plan
    from limbeck.recipe.build import Workshop

FORMAT = 1
"""Version of the keys: teachers of another version are trained anew."""


class Store:
    """A folder of trained teachers, each under the digest of what made it.

    Args:
        folder: None: ``$LIMBECK_HOME/teachers`` where that is set, else ``runs/teachers``.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        home = os.environ.get("LIMBECK_HOME")
        default = Path(home) / "teachers" if home else Path("runs") / "teachers"
        self.folder = default if folder is None else Path(folder)

    def place(self, recipe: Recipe, data: DataBundle, epochs: Sequence[int] = ()) -> Path:
        """Return the folder of a recipe's student: recipe, data and format decide it.

        Args:
            recipe: the recipe.
            data: its data.
            epochs: those kept beside the student, for a run that repeats one which kept others.
        """
        parts = [str(FORMAT), recipe_digest(resolved(recipe)), data.fingerprint()]
        parts += [f"epochs {', '.join(map(str, epochs))}"] if epochs else []
        return self.under(parts)

    def under(self, parts: Sequence[str]) -> Path:
        """Return the folder of what these digests and settings decide."""
        return self.folder / hashlib.sha256("|".join(parts).encode()).hexdigest()[:20]


def is_trained(folder: Path) -> bool:
    """Whether a finished run lies in ``folder``."""
    try:
        done = RunFolder(folder).summary.get("status") == "done"
    except LimbeckError:
        return False
    return done and (folder / "student" / "model.safetensors").is_file()


def obtain(
    recipe: Recipe, workshop: Workshop, key: str, epoch: int | None = None
) -> Path | nn.Module:
    """Return the run folder of a teacher's recipe; train it first, or go on training it.

    A run that was trained without keeping the epoch is repeated, to the same bits, beside it.

    Args:
        recipe: the teacher's recipe.
        workshop: tools; its ``train`` False: an untrained network is returned instead.
        key: where the recipe stands, for messages.
        epoch: of which the student must be kept; None: none.
    """
    from limbeck.recipe.build import at, plan_with, same_random_numbers

    with at(key):
        data = workshop.data(recipe)
        recipe = _keeping(recipe, workshop.epochs_of(recipe) | ({epoch} if epoch else set()))
        epochs = recipe.checkpoints.keep_epochs
        folder, again = workshop.store.place(recipe, data), False
        with joined_world() as world:  # all ranks act on what the first one sees
            trained = world.share(is_trained(folder))
            if trained and world.share(not _has_epoch(folder, epoch)):
                folder, again = workshop.store.place(recipe, data, epochs), True
                trained = world.share(is_trained(folder) and _has_epoch(folder, epoch))
        if trained:
            workshop.say(f"{key}: found again, trained already ({folder})")
            return folder
        if again:
            kept = ", ".join(map(str, epochs))
            workshop.say(f"{key}: was trained without keeping epoch {epoch}: again, for {kept}")
        plan = plan_with(workshop, recipe, key)
        if not workshop.train:
            workshop.say(f"{key}: will be trained first ({folder})")
            with same_random_numbers(recipe.seed):
                student = plan.make_student()
            return next(iter(student.members)) if recipe.is_cohort else student  # type: ignore
        with _locked(folder, workshop):
            _train(folder, plan, workshop, key)
    if not _has_epoch(folder, epoch):  # it was begun before anybody asked for the epoch
        return obtain(recipe, workshop, key, epoch)
    return folder


def obtain_by(plan: Plan, what: Sequence[str], workshop: Workshop, key: str) -> Path | None:
    """Return the run folder of a plan that is no recipe; train it first, or go on training it.

    Args:
        plan: what to do.
        what: digests and settings that decide what comes of it.
        workshop: tools; its ``train`` False: None is returned where nothing is trained yet.
        key: where it stands, for messages.
    """
    folder = workshop.store.under([str(FORMAT), *what])
    with joined_world() as world:
        trained = world.share(is_trained(folder))
    if trained:
        workshop.say(f"{key}: found again, trained already ({folder})")
    elif not workshop.train:
        workshop.say(f"{key}: will be trained first ({folder})")
        return None
    else:
        with _locked(folder, workshop):
            _train(folder, plan, workshop, key)
    return folder


def _keeping(recipe: Recipe, epochs: set[int]) -> Recipe:
    """Return the recipe, whose run keeps these epochs too."""
    wanted = tuple(sorted(epochs.union(recipe.checkpoints.keep_epochs)))
    checkpoints = dataclasses.replace(recipe.checkpoints, keep_epochs=wanted)
    return dataclasses.replace(recipe, checkpoints=checkpoints)


def _has_epoch(folder: Path, epoch: int | None) -> bool:
    return epoch is None or RunFolder(folder).epoch_file(epoch).is_file()


def _train(folder: Path, plan: Plan, workshop: Workshop, key: str) -> None:
    """Run the plan into its folder; every rank does the same."""
    from limbeck.engine.running import run_plan

    with joined_world() as world:
        trained, begun = world.share((is_trained(folder), (folder / "recipe.yaml").exists()))
        if trained:
            return
        verb = "is trained further" if begun else "is trained first"
        if world.leads:
            workshop.say(f"{key}: {verb} ({folder})")
        run_plan(plan, folder, resume=begun, quiet=workshop.quiet)


@contextlib.contextmanager
def _locked(folder: Path, workshop: Workshop) -> Iterator[None]:
    """Let one process at a time train this teacher; the others wait and then find it."""
    if int(os.environ.get("RANK", "0")) != 0:
        yield  # ranks of one job move together: the first holds the lock for all
        return
    with held(
        folder.with_suffix(".lock"),
        lambda: workshop.say(f"waiting for another process that trains {folder}"),
    ):
        yield
