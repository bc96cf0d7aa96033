"""KCD: distil on the samples that are still worth it, fewer of them stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.data.seeds import counter_uniform
from limbeck.errors import MethodError
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Cost, Paper
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle, View

_DROPPING = 0x44524F50  # the stream of drop="random"; augmentations use small numbers


@register_method("kcd")
@dataclass(frozen=True, kw_only=True)
class KCD(Method):
    """Li et al. (2022): knowledge condensation, on top of any other method: ``KD() + KCD()``.

    A sample's value is the mean entropy of the student's own predictions of it. Every
    ``stage_epochs`` epochs all samples are ranked by value, with a small bonus for use; the lowest
    leave, and the lowest that stay are mixed with those that just left. A sample that left may
    return at a later ranking.

    Args:
        weight: has no meaning here, as there are no loss terms.
        tau: share of the samples kept in the end, in (0, 1]; 1 changes nothing.
        stage_epochs: epochs between rankings, at least 1 (40 of 240 in the paper's code).
        alpha: exponent of the bonus for use; 0: no bonus.
        eps_max: largest share of a lost sample in a mixture, in [0, 1]; 0: selection only.
        mixing: "convex" as in the authors' code, or "additive" as eq. 14 is written.
        drop: which samples leave: those of the "lowest" value (the paper); or, to see what the
            choice is worth, those of the "highest", or "random" ones, drawn anew at each ranking.
            Mixing goes by the same order: the last that stay with the first that leave.
    """

    tau: float = 0.7
    stage_epochs: int = 40
    alpha: float = 0.03
    eps_max: float = 0.3
    mixing: Literal["convex", "additive"] = "convex"
    drop: Literal["lowest", "highest", "random"] = "lowest"

    card: ClassVar[Card] = Card(
        title="KCD",
        paper=Paper(
            authors="Li, Lin, Ding, Lin, Zhuang, Huang, Ding, Cao",
            year=2022,
            title="Knowledge Condensation Distillation",
            venue="ECCV 2022",
            arxiv="2207.05409",
        ),
        equation="keep the τN samples of highest mean H(p_S) · uses^α; mix the borderline",
        data_modification="borderline samples are mixed with dropped ones",
        data_partition="the most valuable samples to the student",
        teachers="those of the methods beside it",
        knowledge=("selection",),
        location=("input",),
        transfer="none of its own",
        supervision="labels optional",
        teacher_access="none",
        needs_index=True,
        of_each_sample="keeps a value of each sample and chooses by it",
        selects=True,
        task_weight=0.1,
        cost=Cost(teacher_forwards=0.0, student_steps=0.875),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 < self.tau <= 1, "tau", "a share in (0, 1]")
        self.require(self.stage_epochs >= 1, "stage_epochs", "a whole number of at least 1")
        self.require(0 <= self.eps_max <= 1, "eps_max", "a share in [0, 1]")
        self.require(self.mixing in ("convex", "additive"), "mixing", "convex or additive")
        self.require(
            self.drop in ("lowest", "highest", "random"), "drop", "lowest, highest or random"
        )

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Make room for a value of every sample."""
        if ctx.num_members > 1:
            raise MethodError("method kcd: selects samples for one student, not for a cohort")
        if data is None:
            raise MethodError("method kcd: needs data whose samples have an index")
        return KCDRuntime(self, len(data.splits["train"].samples))


class KCDRuntime(Runtime):
    """KCD at work: the running value of every sample, by its index in the base set."""

    mean: Tensor
    visits: Tensor
    fresh_value: Tensor
    fresh: Tensor
    population: Tensor

    def __init__(self, method: KCD, size: int) -> None:
        super().__init__(method)
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("visits", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("fresh_value", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("fresh", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("population", torch.zeros(size, dtype=torch.bool))

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Note the entropy of the student's predictions; there are no terms."""
        if batch.index is None:
            raise MethodError("method kcd: needs data whose samples have an index")
        value = functional.entropy_value(student.logits.detach())
        self.fresh_value[batch.index] = value.to(self.fresh_value)
        self.fresh[batch.index] = 1
        return {}

    def synchronize(self, ctx: Context) -> None:
        """Merge what this and other ranks saw since the last call into the running means."""
        value, seen = ctx.sum(self.fresh_value), ctx.sum(self.fresh)
        merged = functional.online_mean(self.mean, self.visits, value)
        self.mean.copy_(torch.where(seen > 0, merged, self.mean))
        self.visits.add_((seen > 0).long())
        self.fresh_value.zero_()
        self.fresh.zero_()

    def examples(self, view: View, ctx: Context) -> View:
        """At the start of a stage: rank, drop and mix."""
        method = cast(KCD, self.method)
        if ctx.epoch == 0:
            self.population[view.indices] = True
        stage = ctx.epoch // method.stage_epochs
        if stage == 0 or ctx.epoch % method.stage_epochs:
            return view
        people = self.population.nonzero().squeeze(1).cpu()
        sizes = functional.keep_schedule(len(people), method.tau, ctx.epochs, method.stage_epochs)
        if sizes[stage] == len(people):
            return view
        ranked = people[functional.ranking(self._score(people, ctx))]
        chosen = ranked[: sizes[stage]]
        lost = ranked[sizes[stage] : sizes[stage - 1]]
        mixed = self._mix(view, chosen[len(chosen) - min(len(lost), len(chosen)) :], lost)
        return mixed.select(chosen.sort().values)

    def _score(self, people: Tensor, ctx: Context) -> Tensor:
        """Return what samples are ranked by; the highest stay."""
        method = cast(KCD, self.method)
        if method.drop == "random":  # a function of seed, epoch and sample: alike on every rank
            return counter_uniform(ctx.seed, ctx.epoch, people, _DROPPING)
        score = functional.cost_aware_score(
            self.mean.cpu()[people],
            self.visits.cpu()[people],
            alpha=method.alpha,
            stage_epochs=method.stage_epochs,
        )
        if method.drop == "highest":  # what was never used still stays
            return torch.where(score == torch.inf, score, -score)
        return score

    def _mix(self, view: View, borderline: Tensor, lost: Tensor) -> View:
        """Overlay the borderline samples with mixtures, best with best (eq. 14, 15)."""
        method = cast(KCD, self.method)
        lost = lost[: len(borderline)]
        if not len(lost) or method.eps_max == 0:
            return view
        keep = functional.mixing_weights(len(lost), method.eps_max)
        keep, borderline, lost = keep[1:], borderline[1:], lost[1:]  # the first is all its own
        if not len(lost):
            return view
        ours, theirs = view.at(borderline).inputs, view.at(lost).inputs
        if not isinstance(ours, Tensor):
            raise MethodError(
                "method kcd: inputs of this kind cannot be mixed; set method.eps_max=0"
            )
        shares = keep.view(-1, *[1] * (ours.ndim - 1))
        own = shares if method.mixing == "convex" else torch.ones_like(shares)
        mixture = own * ours.float() + (1 - shares) * theirs.float()
        if not ours.is_floating_point():
            limits = torch.iinfo(ours.dtype)
            mixture = mixture.round().clamp(limits.min, limits.max)
        return view.with_overlay(borderline, mixture.to(ours.dtype))

    def report(self) -> Mapping[str, float]:
        """The mean value of the samples seen so far."""
        seen = self.visits > 0
        value = float(self.mean[seen].mean()) if bool(seen.any()) else 0.0
        return {"value": value}
