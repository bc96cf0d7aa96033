"""Cross-fitted teacher: each training sample is answered by who has not seen it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.data.batch import Batch, take_rows
from limbeck.data.folds import fold_numbers
from limbeck.data.loader import eval_batches
from limbeck.data.samples import digest_of
from limbeck.errors import TeacherError
from limbeck.taps.outputs import Outputs
from limbeck.teachers.base import Teacher, in_short
from limbeck.teachers.digest import digest_of_parts, tensor_digest
from limbeck.teachers.ensemble import EnsembleTeacher

if TYPE_CHECKING:
    from limbeck.data.bundle import DataBundle
    from limbeck.teachers.visits import Visits

_log = logging.getLogger("limbeck.teachers")
_LOOKED_AT = 10_000  # training samples that the account of a cross-fit is made of, at most
_BATCH_SIZE = 256


class CrossFitTeacher(Teacher):
    """Teachers fitted on parts of the training samples; each answers for those it has not seen.

    A teacher that has seen a sample with its label is surer of it, and more often right, than it
    will ever be of a new one: the student learns from answers that say too little. Here a
    training sample is answered by the mean logits of the members that have not seen it (with K
    folds: the one that was fitted without its fold; for samples that none has seen: all), and any
    other sample by the mean logits of all.

    Which samples are the training ones is told by how the loader drew them (``Batch.draw``), so
    methods that change samples are refused, and so are loops that are not Limbeck's.

    Args:
        teachers: at least two: a Teacher or ``nn.Module`` each.
        unseen: bool ``[teachers, samples]``: which samples of the training part's base set each
            has not seen.
        samples: digest of that base set (``limbeck.data.samples.digest_of``).
        name: what methods call it.
        say: gets lines for a person; None: the log.

    Attributes:
        account: on training samples, after ``bind``: "accuracy" and "nll" where the answer is that
            of a member that has not seen the sample, "accuracy_seen" and "nll_seen" where it is
            that of one that has; empty without labels.

    Raises:
        TeacherError: fewer than two teachers, one that changes, or a table of another size; on
            ``foresee``, a method that changes samples; on ``bind``, other training samples, or
            mixed ones.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher | nn.Module],
        unseen: Tensor,
        *,
        samples: str,
        name: str = "crossfit",
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        if len(teachers) < 2:
            raise TeacherError(f"teachers.{name}: a cross-fit needs at least two teachers")
        self.all = EnsembleTeacher(teachers, name=name)  # who is asked about any other sample
        if self.all.changes:
            raise TeacherError(f"teachers.{name}: a cross-fitted teacher must not change")
        if unseen.dtype != torch.bool or unseen.dim() != 2 or len(unseen) != len(teachers):
            raise TeacherError(
                f"teachers.{name}.unseen: expected bool {[len(teachers), 'samples']}, got "
                f"{unseen.dtype} {list(unseen.shape)}"
            )
        self.unseen = unseen
        self.account: dict[str, float] = {}
        self._samples = samples
        self._say = say
        self._data: DataBundle | None = None
        self._foreseen = False

    def foresee(self, visits: Visits) -> None:
        """Refuse methods that change samples: nobody can have not seen those."""
        if visits.changing:
            raise TeacherError(
                f"teachers.{self.name}: method {visits.changing[0]} changes samples, and of a "
                "changed sample nobody can tell which fold has not seen it; use another method"
            )
        self._foreseen = True
        self.all.foresee(visits)

    def bind(self, data: DataBundle | None, device: torch.device) -> None:
        """Bind every teacher, and look at how sure they are of what they have (not) seen."""
        if data is None:
            raise TeacherError(
                f"teachers.{self.name}: needs the data, to know which samples it is asked about"
            )
        train = data.splits["train"]
        if len(train.samples) != self.unseen.shape[1] or digest_of(train.samples) != self._samples:
            raise TeacherError(
                f"teachers.{self.name}: was fitted on folds of other training samples than these; "
                "fit it on this run's data"
            )
        if data.augment_train.steps.mixup:
            raise TeacherError(
                f"teachers.{self.name}: data.augment has mixup, and of a mixture of two samples "
                "nobody can tell which fold has seen neither; leave one of them out"
            )
        self.all.name = self.name
        self.all.bind(data, device)
        self._data = data
        self.account = self._look(data, device)
        if self.account:
            self._tell()

    def set_taps(self, taps: Sequence[str]) -> None:
        """Refuse: the networks of different folds share no space of features."""
        if taps:
            raise TeacherError(
                f"teachers.{self.name}: gives outputs only, no features ({', '.join(taps)}): each "
                "fold has a network of its own; use a response-based method"
            )

    def ask(
        self, batch: Batch, *, taps: Sequence[str] | None = None, require_grad: bool = False
    ) -> Outputs:
        """Return, for training samples, what those say that have not seen them."""
        if taps:
            self.set_taps(taps)  # refuses
        draw, data = batch.draw, self._data
        if draw is None or data is None or batch.index is None:
            maybe_training = batch.index is not None or batch.targets is not None
            if maybe_training and not self._foreseen:
                raise TeacherError(
                    f"teachers.{self.name}: cannot tell whether these are training samples; "
                    "cross-fitted teachers work in limbeck.distill and in recipes"
                )
            return Outputs(self.all.ask(batch, require_grad=require_grad).logits)
        if draw.samples is not data.splits["train"].samples:
            return Outputs(self.all.ask(batch, require_grad=require_grad).logits)
        if batch.changed is not None and bool(batch.changed.any()):
            raise TeacherError(
                f"teachers.{self.name}: a sample was changed, and nobody can tell which fold has "
                "not seen it"
            )
        allowed = self.unseen[:, batch.positions]
        return Outputs(self._mean(batch, allowed | ~allowed.any(dim=0), require_grad))

    def _mean(self, batch: Batch, allowed: Tensor, require_grad: bool = False) -> Tensor:
        """Return the mean logits of the members that are ``allowed [teachers, batch]``."""
        total: Tensor | None = None
        for member, mine in zip(self.all.members, allowed, strict=True):
            rows = mine.nonzero().squeeze(1)
            if not len(rows):
                continue
            few = take_rows(batch, rows)
            said = member.ask(few, taps=(), require_grad=require_grad).logits
            rows = rows.to(said.device)
            total = said.new_zeros(len(batch), *said.shape[1:]) if total is None else total
            total = total.index_add(0, rows, said)
        assert total is not None  # every column of ``allowed`` has a member
        count = allowed.sum(dim=0).to(total.device, total.dtype)
        return total / count.view(-1, *[1] * (total.dim() - 1))

    # What came of it.

    def _look(self, data: DataBundle, device: torch.device) -> dict[str, float]:
        view = data.splits["train"]
        if data.task != "classification" or not bool(view.labelled.any()):
            return {}
        view = view.select(view.indices[view.labelled][:_LOOKED_AT])
        heard: dict[str, list[Tensor]] = {"unseen": [], "seen": []}
        targets = []
        for batch in eval_batches(view, _BATCH_SIZE, data.augment_eval):
            assert batch.targets is not None
            assert batch.index is not None
            mine = self.unseen[:, batch.index]
            # Seen and unseen are compared on the same samples: those that some member has seen.
            known = mine.any(dim=0) & (~mine).any(dim=0)
            if not bool(known.any()):
                continue
            few = take_rows(batch, known.nonzero().squeeze(1))
            mine = mine[:, known]
            one = (~mine).long().argmax(dim=0)  # the first that has seen it
            seen = torch.nn.functional.one_hot(one, len(mine)).T.bool()
            for key, allowed in (("unseen", mine), ("seen", seen)):
                heard[key].append(self._mean(few.to(device), allowed).detach().cpu())
            assert few.targets is not None
            targets.append(few.targets)
        if not targets:
            return {}
        return _scores(heard, torch.cat(targets))

    def _tell(self) -> None:
        found = self.account
        line = (
            f"{self.name}: of training samples, accuracy {found['accuracy']:.4g} and NLL "
            f"{found['nll']:.4g} by those that have not seen them ({found['accuracy_seen']:.4g} "
            f"and {found['nll_seen']:.4g} by others)"
        )
        if self._say is None:
            _log.info("teacher %s", line)
        else:
            self._say(line)

    def fingerprint(self) -> str:
        """Return the digest over the teachers and what each has not seen."""
        return digest_of_parts("crossfit", tensor_digest(self.unseen), self.all.fingerprint())

    @property
    def module(self) -> nn.Module | None:
        """All modules in one; None where a member has none."""
        return self.all.module

    def reads(self, data: DataBundle) -> str:
        """Return what members do with their inputs."""
        return self.all.reads(data)

    def describe(self) -> str:
        """Return how many there are, and what the first is."""
        first = in_short(self.all.members[0])
        return f"cross-fitted over {len(self.unseen)} folds, each without one of them: ({first})"

    def close(self) -> None:
        """Close every teacher."""
        self._foreseen = False
        self.all.close()


def cross_fit(
    fit: Callable[[DataBundle], Any],
    data: DataBundle,
    *,
    folds: int = 5,
    seed: int = 0,
    name: str = "crossfit",
) -> CrossFitTeacher:
    """Fit a teacher once without each fold of the training part.

    Args:
        fit: is given the data without a fold, and returns whatever ``as_teacher`` reads: a
            network that was trained on them, a fitted estimator.
        data: the data that the student will learn on.
        folds: number of folds, at least 2.
        seed: of the cut.
        name: what methods call it.

    Raises:
        TeacherError: fewer than 2 folds, or more than training samples.
    """
    from limbeck.teachers.choose import as_teacher

    train = data.splits["train"]
    positions = torch.unique(train.indices)
    if not 2 <= folds <= len(positions):
        raise TeacherError(
            f"teachers.{name}.folds: expected 2 to {len(positions):,} (training samples), got "
            f"{folds}"
        )
    numbers = fold_numbers(train.base_targets, positions, folds, seed)
    teachers, unseen = [], []
    for fold in range(folds):
        kept = positions[numbers != fold]
        teachers.append(as_teacher(fit(data.with_train(train.select(kept))), f"{name}[{fold}]"))
        unseen.append(unseen_beside(len(train.samples), kept))
    return CrossFitTeacher(
        teachers, torch.stack(unseen), samples=digest_of(train.samples), name=name
    )


def unseen_beside(num_samples: int, seen: Tensor) -> Tensor:
    """Return bool ``[num_samples]``: the positions that are not among ``seen``."""
    unseen = torch.ones(num_samples, dtype=torch.bool)
    unseen[seen] = False
    return unseen


def _scores(heard: dict[str, list[Tensor]], targets: Tensor) -> dict[str, float]:
    from limbeck.functional import negative_log_likelihood

    found: dict[str, float] = {}
    for key, ending in (("unseen", ""), ("seen", "_seen")):
        logits = torch.cat(heard[key])
        right = (logits.argmax(dim=1) == targets).double().mean()
        found[f"accuracy{ending}"] = float(right)
        found[f"nll{ending}"] = float(negative_log_likelihood(logits, targets))
    return found
