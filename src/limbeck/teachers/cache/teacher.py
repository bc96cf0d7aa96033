"""Cached teacher: another teacher, asked once about each view of each sample."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from limbeck.data.batch import Batch, first_tensor, move
from limbeck.errors import CacheError, TeacherError, unknown
from limbeck.files import storage_errors
from limbeck.taps.outputs import Outputs
from limbeck.teachers.answered_maps import moved_maps
from limbeck.teachers.base import Teacher
from limbeck.teachers.cache.budget import as_bytes
from limbeck.teachers.cache.capture import Capture
from limbeck.teachers.cache.codec import Codec, as_codec
from limbeck.teachers.cache.drawing import conditions
from limbeck.teachers.cache.info import difference_note, other_conditions
from limbeck.teachers.cache.key import Key, make_key, views_differ
from limbeck.teachers.cache.lock import locked
from limbeck.teachers.cache.lookup import Lookup, Place
from limbeck.teachers.cache.manifest import NAME, Manifest, read_manifest
from limbeck.teachers.cache.reader import (
    IN_MEMORY,
    Part,
    damaged,
    open_part,
    see_all_present,
)
from limbeck.teachers.cache.store import nearest, place_of
from limbeck.teachers.digest import digest_of_parts
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.visits import Visits

if TYPE_CHECKING:
    from limbeck.data.bundle import DataBundle

INPUTS = ("views", "clean")
_log = logging.getLogger("limbeck.teachers")


class CachedTeacher(Teacher):
    """A teacher whose answers about the training samples are kept on disk.

    The first time a view of the samples is asked about, the teacher is asked about all of it and
    its answers are written; from then on, in this run and in later ones, they are read. What is no
    training sample as the loader drew it (evaluation, mixed or generated samples, questions for
    gradients or other taps) is put to the teacher itself.

    Args:
        teacher: the teacher; it must not change during the run. A module, an estimator or a
            callable as in ``as_teacher``.
        folder: of the cache; another teacher's, data's or augmentation's is refused. None: found
            by content among ``$LIMBECK_HOME/caches``, or ``runs/caches``.
        codec: in what form answers are kept: a name, a mapping or a :class:`Codec`.
        inputs: "views": the answers are about the augmented views that the student sees, and as
            many views are cycled as ``train.views`` says. "clean": the teacher answers once, about
            the sample as evaluation shows it, whatever view the student sees; kept explanations
            are cropped, flipped and rotated as the view is.
        budget: most bytes of the cache: a number, or "2GB"; None: what the disk has.
        name: what methods call it; None: the teacher's name.
        say: gets lines for a person; None: the log.

    Raises:
        TeacherError: a teacher that changes, or a cache around a cache; on ``bind``, a new view
            every epoch, of which nothing could be used again.
        CacheError: settings out of range; on asking, a cache of something else, a damaged one, or
            one that would not fit the budget.
    """

    gives_gradients = False

    def __init__(
        self,
        teacher: Any,
        folder: str | Path | None = None,
        *,
        codec: Codec | str | Mapping[str, Any] = "float32",
        inputs: Literal["views", "clean"] = "views",
        budget: int | str | None = None,
        name: str | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        from limbeck.teachers.choose import as_teacher

        self.inner = (
            teacher if isinstance(teacher, Teacher) else as_teacher(teacher, name or "teacher")
        )
        self.name = name or self.inner.name
        self.codec = as_codec(codec)
        if inputs not in INPUTS:
            raise CacheError(f"teachers.{self.name}.inputs: " + unknown("choice", inputs, INPUTS))
        self.inputs = inputs
        self.budget = as_bytes(budget)
        if isinstance(self.inner, CachedTeacher):
            raise TeacherError(f"teachers.{self.name}: a cache around a cache keeps nothing more")
        if self.inner.changes:
            raise TeacherError(
                f"teachers.{self.name}: changes during the run, so that its answers cannot be kept"
            )
        dense: Literal["features", "outputs"]
        dense = "features" if self.inner.can_give("features") else "outputs"
        self.access = "sparse" if self.codec.is_sparse else dense
        self.only_temperature = self.codec.temperature if self.codec.is_sparse else None
        self.say = say
        self._folder = None if folder is None else Path(folder)
        self._visits = Visits()
        self._taps: tuple[str, ...] = ()
        self._data: DataBundle | None = None
        self._device = torch.device("cpu")
        self._drop()

    def _drop(self) -> None:
        """Forget what depends on data, taps and settings."""
        self._key: Key | None = None
        self._parts: dict[int, Part] = {}
        self._found: Lookup | None = None
        self._held = 0

    # What the engine tells.

    def foresee(self, visits: Visits) -> None:
        """Learn seed, number of views, and how many samples are asked about at once."""
        self._visits = visits
        self.inner.foresee(visits)
        self._drop()

    def bind(self, data: DataBundle | None, device: torch.device) -> None:
        """Bind the teacher, and see that there is something to save."""
        self.inner.name = self.name
        self.inner.bind(data, device)
        self._data, self._device = data, device
        self._drop()
        if data is None:
            return
        if self.codec.is_sparse and data.task != "classification":
            raise TeacherError(
                f"teachers.{self.name}.codec: {self.codec.name} keeps a distribution over classes; "
                f"{data.task} needs float32 or float16"
            )
        refuse_nothing_to_save(self.name, data, self.inputs, self._visits.views)
        if self.inputs == "clean" and self._visits.changing:
            raise TeacherError(
                f"teachers.{self.name}.inputs: method {self._visits.changing[0]} changes samples, "
                "and a changed sample has no clean view; use inputs: views"
            )

    def meet(self, student: nn.Module) -> None:
        """Hand the student on."""
        self.inner.meet(student)

    def set_taps(self, taps: Sequence[str]) -> None:
        """Announce the taps; features of these are kept beside the logits."""
        if taps and self.codec.is_sparse:
            raise TeacherError(
                f"teachers.{self.name}.codec: {self.codec.name} keeps no features "
                f"({', '.join(taps)}); use float32 or float16"
            )
        self.inner.set_taps(taps)
        self._taps = tuple(taps)
        self._drop()

    # Asking.

    def ask(
        self, batch: Batch, *, taps: Sequence[str] | None = None, require_grad: bool = False
    ) -> Outputs:
        """Return the kept answers about a training batch; put anything else to the teacher."""
        kept = taps is None or set(taps) <= set(self._taps)
        bound = self._data is not None
        place = self._lookup().place(batch) if kept and bound and not require_grad else None
        if place is None:
            return self.inner.ask(batch, taps=taps, require_grad=require_grad)
        outputs = self._gather(place, batch, taps)
        if self.inputs == "clean":
            outputs = moved_maps(outputs, batch)
        asked = first_tensor(batch.inputs)
        if asked.is_cpu:
            return outputs
        return outputs.map(lambda tensor: move(tensor, asked.device))

    def _gather(self, place: Place, batch: Batch, taps: Sequence[str] | None) -> Outputs:
        try:
            return self._part(place.view).gather(place.rows, taps)
        except IndexError:
            assert batch.index is not None
            raise self._lookup().stranger(batch.index) or CacheError(
                f"teachers.{self.name}: view {place.view} has fewer rows than samples"
            ) from None

    # Views.

    @property
    def num_views(self) -> int:
        """How many views the run will see."""
        return self._lookup().num_views

    def _lookup(self) -> Lookup:
        if self._found is None:
            clean = self.inputs == "clean"
            self._found = Lookup(self.name, self._bound(), self._visits, clean=clean)
        return self._found

    def _part(self, view: int) -> Part:
        if view not in self._parts:
            manifest = self.capture(view)
            if not self._parts:  # sooner than in the epoch that needs it
                see_all_present(self.folder, manifest)
            size = sum(shard["bytes"] for shard in manifest.views[str(view)]["shards"])
            room = IN_MEMORY if self._held + size <= IN_MEMORY else 0
            self._held += size if room else 0
            self._parts[view] = open_part(self.folder, manifest, view, self.codec, in_memory=room)
            entry = manifest.views[str(view)]
            note = difference_note(entry, conditions(self._visits, self._device))
            if note is not None and self._keeps_all:
                self.tell(f"view {view}: {note}")
        return self._parts[view]

    @property
    def _keeps_all(self) -> bool:
        """Whether every number is kept as it was answered."""
        whole = not self._taps or self.codec.features == "float32"
        return self.codec.name == "float32" and whole

    def capture(self, view: int = 0) -> Manifest:
        """Ask the teacher about one view and keep what it says, unless that is kept already.

        Returns:
            the cache's manifest, which lists the view.

        Raises:
            CacheError: a cache of something else or a damaged one in the folder, or one that would
                not fit the budget.
        """
        key, folder = self.key(), self.folder
        if (folder / NAME).exists():
            manifest = read_manifest(folder)
            key.refuse_other(manifest.key, str(folder))
        elif self._folder is None and self._visits.rank == 0:
            other = nearest(key)
            if other is not None:
                self.tell(other)
        data = self._bound()
        return Capture(
            folder=folder,
            key=key,
            about={
                "teacher": self.inner.describe(),
                "data": data.describe(),
                "codec": self.codec.describe(),
            },
            ask=self.inner.ask,
            data=data,
            visits=self._visits,
            codec=self.codec,
            clean=self.inputs == "clean",
            device=self._device,
            budget=self.budget,
            num_views=max(self.num_views, view + 1),
            say=self.tell,
        ).take(view)

    def repair(self) -> list[str]:
        """Take out what is damaged, so that the next capture asks about these samples again.

        That is about their shards alone under the conditions of the first capture (batch size,
        threads, device, torch), about the whole view under others. Every rank must call it.

        Returns:
            the files of shards that were missing, damaged or out of place.

        Raises:
            CacheError: there is no cache, one of something else, or its manifest is damaged.
        """
        files: list[str] = self._visits.lead(self._take_out)
        self._drop()
        return files

    def _take_out(self) -> list[str]:
        folder = self.folder
        self.key().refuse_other(read_manifest(folder).key, str(folder))
        with locked(folder, self.tell), storage_errors(folder):
            manifest = read_manifest(folder)
            found = damaged(folder, manifest)
            for view in found:
                now = conditions(self._visits, self._device)
                other = other_conditions(manifest.views[str(view)], now)
                if other is not None:
                    self.tell(f"view {view}: {other}; all of it is asked about again")
            if found:
                manifest.without_views(found).write(folder)
            files = [file for view in found.values() for file in view]
            for file in files:
                (folder / file).unlink(missing_ok=True)
            return files

    def key(self) -> Key:
        """Return what decides the cache's content: known after ``bind`` and ``set_taps``."""
        if self._key is None:
            self._key = make_key(
                teacher=self.inner.fingerprint(),
                data=self._bound(),
                clean=self.inputs == "clean",
                seed=self._visits.seed,
                outputs=["logits", *self._taps],
                codec=self.codec.settings(features=bool(self._taps)),
            )
        return self._key

    @property
    def folder(self) -> Path:
        """The cache's folder: the one given, or found by content."""
        return self._folder if self._folder is not None else place_of(self.key())

    def _bound(self) -> DataBundle:
        if self._data is None:
            raise TeacherError(f"teachers.{self.name}: bind the cache to data first")
        return self._data

    def tell(self, line: str) -> None:
        """Say a line for a person, once among all ranks."""
        if self.say is None:
            _log.info("teacher %s: %s", self.name, line)
        elif self._visits.rank == 0:
            self.say(f"{self.name}: {line}")

    # The teacher behind it.

    def fingerprint(self) -> str:
        """Return the digest of the teacher, of the form its answers have, and of its inputs."""
        form = repr(sorted(self.codec.settings(features=True).items()))
        return digest_of_parts("cached", self.inner.fingerprint(), form, self.inputs)

    @property
    def hides_members(self) -> bool:
        """Whether single voices behind the answers are not kept."""
        inner = self.inner
        while not isinstance(inner, EnsembleTeacher) and hasattr(inner, "inner"):
            inner = inner.inner
        return isinstance(inner, EnsembleTeacher)

    @property
    def module(self) -> nn.Module | None:
        """The teacher's module."""
        return self.inner.module

    @property
    def forward(self) -> Callable[[Any, Any], Any] | None:
        """What the teacher's module is run by."""
        return self.inner.forward

    def reads(self, data: DataBundle) -> str:
        """Return what the teacher does with its inputs."""
        return self.inner.reads(data)

    def inputs_of(self, batch: Batch) -> Any:
        """Return the inputs as the teacher's module reads them."""
        return self.inner.inputs_of(batch)

    def describe(self) -> str:
        """Return the form, and the teacher."""
        seen = "the clean sample" if self.inputs == "clean" else "each view"
        return f"asked once about {seen}, kept as {self.codec.describe()}: {self.inner.describe()}"

    def close(self) -> None:
        """Let go of the files and of the teacher."""
        self._drop()
        self.inner.close()


def refuse_nothing_to_save(name: str, data: DataBundle, inputs: str, views: int | None) -> None:
    """Raise TeacherError where every epoch asks about views that were never asked about.

    Mixtures, too, have no clean view that an answer could be about.
    """
    if inputs == "clean" and data.augment_train.steps.mixup:
        raise TeacherError(
            f"teachers.{name}.inputs: mixup mixes samples, and a mixture has no clean view; use "
            "inputs: views, and train.views=4 to cycle four views"
        )
    if inputs == "views" and views is None and views_differ(data):
        raise TeacherError(
            f"teachers.{name}: there is nothing to save: every epoch has a new augmented view of "
            "each sample, so the teacher must be asked anew each time; set train.views=4 to cycle "
            "four views, or inputs: clean to ask it once about the sample without augmentation"
        )
