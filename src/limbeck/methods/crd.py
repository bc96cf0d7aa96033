"""CRD: a sample's two embeddings should find each other among those of other samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Coupling, Paper
from limbeck.methods.context import Context
from limbeck.methods.layers import find_pairs
from limbeck.methods.negatives import NegativeSource, groups_of
from limbeck.methods.registry import register_method
from limbeck.taps import TapPair
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("crd")
@dataclass(frozen=True, kw_only=True)
class CRD(Method):
    r"""Tian, Krishnan and Isola (2020): contrast embeddings of student and teacher.

    .. math:: -\log \frac{P_0}{P_0 + m/n} - \sum_{i=1}^{m} \log \frac{m/n}{P_i + m/n},
        \quad P_i = \frac{1}{Z} \exp \frac{\langle v, u_i \rangle}{\tau}

    once with the student's embedding against the teacher's, once the other way round. ``u_0`` is
    the same sample's, ``u_1 … u_m`` are other samples', n is the number of samples. Embeddings are
    linear and of length 1; both are learned, and left behind at deploy. Z is set from the first
    batch and stays. The other side's embeddings are remembered in a bank, a moving average for
    every training sample; or, where a bank would be too large, they are those of the batch.

    Args:
        weight: 0.8, beside a task weight of 1 (the authors' code).
        tap: "penultimate", the vectors before the classifier; any other tap, flattened; or
            ``(student tap, teacher tap)``.
        negatives: "bank", or "batch": the samples of the batch alone, with no memory.
        num_negatives: negatives a sample from the bank, at least 1, drawn anew in every step, all
            different where there are as many.
        same_class: "exclude": samples with the same label are no negatives (the authors' code);
            "keep": every other sample may be one. Samples without a label count as of no class.
        dim: width of the embeddings, at least 1.
        temperature: τ, above 0.
        momentum: of the bank, in [0, 1): the share of the old embedding.
        eps: inside the logarithms, as in the authors' code; above 0.
        across_ranks: of ``negatives="batch"`` under several processes: "gather" contrasts with the
            samples of all of them, "local" with each process's own. The bank is always one.
    """

    weight: float = 0.8
    tap: str | tuple[str, str] = "penultimate"
    negatives: Literal["bank", "batch"] = "bank"
    num_negatives: int = 16384
    same_class: Literal["exclude", "keep"] = "exclude"
    dim: int = 128
    temperature: float = 0.07
    momentum: float = 0.5
    eps: float = 1e-7
    across_ranks: Literal["gather", "local"] = "gather"

    card: ClassVar[Card] = Card(
        title="CRD",
        paper=Paper(
            authors="Tian, Krishnan, Isola",
            year=2020,
            title="Contrastive Representation Distillation",
            venue="ICLR 2020",
            arxiv="1910.10699",
        ),
        equation="-log P₀/(P₀ + m/n) - Σ log (m/n)/(P_i + m/n), P = exp(⟨v, u⟩/τ)/Z, both ways",
        knowledge=("feature", "relation"),
        location=("intermediate",),
        transfer="noise-contrastive estimation",
        tasks=("classification", "multilabel", "regression"),
        min_classes=2,
        teacher_access="features",
        needs_index=True,
        separable=False,
        bank=True,
        of_each_sample="remembers an embedding of each sample (negatives: bank)",
        exempt={
            "halves": "Z is set from the first batch, and a half of it gives another",
            "zero_at_equality": "a sample is told from others, also by equal features",
            "batch_one": "the contract's data are then one sample, which has no negative; a batch "
            "of one from more data is tested",
            "gradient": "Z is set from the first batch, by design without a gradient; tested with "
            "Z already set",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("num_negatives", "dim"):
            self.require(getattr(self, key) >= 1, key, "a whole number of at least 1")
        for key in ("temperature", "eps"):
            self.require(getattr(self, key) > 0, key, "a number above 0")
        self.require(0 <= self.momentum < 1, "momentum", "a number in [0, 1)")
        self.require(self.negatives in ("bank", "batch"), "negatives", "bank or batch")
        self.require(self.same_class in ("exclude", "keep"), "same_class", "exclude or keep")
        self.require(self.across_ranks in ("gather", "local"), "across_ranks", "gather or local")

    @property
    def coupling(self) -> Coupling:
        """The bank, or the batch."""
        return self.negatives

    @property
    def of_each_sample(self) -> str:
        """The bank has a place for each sample; a batch tells its own apart, but for classes."""
        if self.negatives == "bank":
            return self.card.of_each_sample
        if self.same_class == "keep":
            return ""
        return "leaves out negatives of a sample's own class (same_class: exclude)"

    @property
    def compares_all_ranks(self) -> bool:
        """Whether the negatives of a batch are those of all ranks."""
        return self.across_ranks == "gather"

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Build the embeddings, and a bank of random directions."""
        if data is None:
            raise MethodError("method crd: needs data whose samples have an index")
        pairs = self.tap if isinstance(self.tap, str) else (tuple(self.tap),)
        found = find_pairs(self, pairs, student, teachers, ctx)
        if len(found) != 1:
            taps = ", ".join(pair.student for pair in found)
            raise MethodError(f"method.tap: crd embeds one layer, got {len(found)} ({taps})")
        return CRDRuntime(self, found[0], data, ctx)


class CRDRuntime(Runtime):
    """CRD at work: two embeddings, Z of both directions, and the bank of both sides.

    Buffers ``student_bank`` and ``teacher_bank`` are ``[train samples, dim]``, ``log_z`` is ``[2]``
    (student's embeddings, teacher's), NaN until the first batch.
    """

    log_z: Tensor
    student_bank: Tensor
    teacher_bank: Tensor

    def __init__(self, method: CRD, pair: TapPair, data: DataBundle, ctx: Context) -> None:
        super().__init__(method)
        self.pair = pair
        self.embed_student = nn.Linear(math.prod(pair.student_shape[1:]), method.dim)
        self.embed_teacher = nn.Linear(math.prod(pair.teacher_shape[1:]), method.dim)
        view = data.splits["train"]
        self.num_data = len(torch.unique(view.indices))
        self.register_buffer("log_z", torch.full((2,), math.nan))
        if method.negatives == "bank":
            self.source = NegativeSource(view, keep_class=method.same_class == "keep")
            limit = math.sqrt(3 / method.dim)  # each row about 1 long, as the authors' code has it
            for name in ("student_bank", "teacher_bank"):
                rows = torch.empty(self.num_data, method.dim).uniform_(-limit, limit)
                self.register_buffer(name, rows)

    def student_taps(self) -> tuple[str, ...]:
        """The embedded layer."""
        return (self.pair.student,)

    def teacher_taps(self) -> tuple[str, ...]:
        """The embedded layer."""
        return (self.pair.teacher,)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"crd": scalar}``; the bank is brought up to date after scoring."""
        if batch.index is None:
            raise MethodError("method crd: needs data whose samples have an index")
        method = cast(CRD, self.method)
        ours = _embed(self.embed_student, student.features[self.pair.student])
        theirs = _embed(self.embed_teacher, teacher.features[self.pair.teacher].detach())
        if method.negatives == "batch":
            return {"crd": self._against_batch(ours, theirs, batch, ctx)}
        self.source.refuse_strangers(batch.positions)
        rows, others = self.source.draw(batch.index, method.num_negatives, ctx.seed, ctx.step)
        chosen = torch.cat([rows[:, None], others], dim=1)
        sides = ((ours, self.teacher_bank), (theirs, self.student_bank))
        scores = [functional.bank_scores(v, bank, chosen) for v, bank in sides]
        value = self._contrast([(s[:, 0], s[:, 1:]) for s in scores], None, ctx)
        rows = ctx.gather(rows)
        for bank, embedding in ((self.student_bank, ours), (self.teacher_bank, theirs)):
            fresh = ctx.gather(embedding.detach())
            functional.bank_update(bank, rows, fresh, momentum=method.momentum)
        return {"crd": value}

    def _against_batch(self, ours: Tensor, theirs: Tensor, batch: Batch, ctx: Context) -> Tensor:
        """The same loss with the embeddings of the batch, detached, in the place of the bank's."""
        method = cast(CRD, self.method)
        own = groups_of(batch.targets, batch.index, keep_class=method.same_class == "keep")
        everyone, all_ours, all_theirs = own, ours.detach(), theirs.detach()
        if method.compares_all_ranks:
            everyone = ctx.gather(everyone)
            all_ours, all_theirs = ctx.gather(all_ours), ctx.gather(all_theirs)
        counted = own[:, None] != everyone[None, :]
        with torch.autocast(ours.device.type, enabled=False):
            scores = [
                ((ours * theirs.detach()).sum(1), ours @ all_theirs.T),
                ((theirs * ours.detach()).sum(1), theirs @ all_ours.T),
            ]
        return self._contrast(scores, counted, ctx)

    def _contrast(
        self, scores: list[tuple[Tensor, Tensor]], counted: Tensor | None, ctx: Context
    ) -> Tensor:
        """Return both directions' losses; the first batch of all ranks sets Z."""
        method = cast(CRD, self.method)
        warm = [(own / method.temperature, other / method.temperature) for own, other in scores]
        if bool(self.log_z.isnan().any()):
            self.log_z.copy_(torch.stack([_log_mean(*pair, counted, ctx) for pair in warm]))
            self.log_z += math.log(self.num_data)
        log_z = self.log_z.clone()
        first, second = (
            functional.crd_nce(
                *pair, log_normaliser=z, num_data=self.num_data, counted=counted, eps=method.eps
            )
            for pair, z in zip(warm, log_z, strict=True)
        )
        return first + second


def _embed(linear: nn.Module, feature: Tensor) -> Tensor:
    """Return embeddings of length 1, in float32 at least."""
    value: Tensor = linear(feature.flatten(1).to(next(linear.parameters()).dtype))
    return normalize(value if value.dtype == torch.float64 else value.float(), dim=1)


def _log_mean(own: Tensor, others: Tensor, counted: Tensor | None, ctx: Context) -> Tensor:
    """Logarithm of the mean exponential of the scores of all ranks."""
    kept = others if counted is None else others[counted]
    scores = torch.cat([own.detach(), kept.detach().flatten()]).double()
    total = torch.stack([scores.exp().sum(), scores.new_tensor(len(scores))])
    summed, count = ctx.sum(total)
    mean: Tensor = (summed / count).log()
    return mean
