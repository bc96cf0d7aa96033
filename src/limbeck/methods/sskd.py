"""SSKD: how alike the teacher finds turned images and the originals, taught beside its answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import IGNORE, Batch
from limbeck.errors import MethodError
from limbeck.kernels.optimizers import SGD
from limbeck.methods.base import Runtime, Terms
from limbeck.methods.card import Card, Cost, Paper
from limbeck.methods.context import Context
from limbeck.methods.ft import training_batches
from limbeck.methods.paired import Paired, PairedRuntime
from limbeck.methods.registry import register_method
from limbeck.methods.turned import TURNS, check_square, make_head, owners, similarities, with_turned
from limbeck.taps import TapPair
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("sskd")
@dataclass(frozen=True, kw_only=True)
class SSKD(Paired):
    r"""Xu et al. (2020): knowledge distillation meets self-supervision.

    .. math:: \lambda_1 T^2 \mathrm{KL}(p \| q) + \lambda_2 T^2 \mathrm{KL}(\tilde p \| \tilde q)
              + \lambda_3 s^2 \mathrm{KL}(b_T \| b_S), \quad
              b_{i,\cdot} = \mathrm{softmax}_j
              \left( \cos( h(\tilde f_i), h(f_j) ) / s \right)

    Every image is shown four times: as it is, and turned (marked with a tilde) by 90, 180 and 270
    degrees. Both answers are distilled, and so is which original each turned image is found alike
    to. Of what the teacher gets wrong, the least wrong part stays. h is a head of two linear layers
    on the features: the teacher's is fitted before the first step to tell which original is whose,
    and fixed then; the student's learns with it. Both are left behind.

    The task term is about originals alone. Methods that are added to it see all four. The log of
    each epoch has the share of turned images whose original the teacher's head found.

    Args:
        weight: weight of all three terms (1, beside a task weight of 0.1).
        pairs: "auto" takes the vectors that the heads read; or one pair
            ``((student tap, teacher tap),)``, which is flattened.
        answers: λ1, of the originals' answers, at least 0 (0.9).
        turned: λ2, of the turned images' answers, at least 0 (2.7).
        similarity: λ3, of the similarities, at least 0 (10).
        temperature: T of the answers, above 0.
        softness: s of the similarities, above 0.
        keep_turned: share of the turned images that the teacher classifies wrongly which stays, in
            [0, 1] (1: all).
        keep_similar: likewise of those whose original its head does not find, in [0, 1] (0.75).
        fit_epochs: epochs in which the teacher's head is fitted, before the run's own, at least 1.
        fit_lr: their learning rate (SGD with momentum 0.9), above 0; a tenth from half of them on,
            a hundredth from three quarters on.
        fit_batch_size: their images a step, each shown four times, at least 2.
    """

    weight: float = 1.0
    pairs: str | tuple[Any, ...] = "auto"
    answers: float = 0.9
    turned: float = 2.7
    similarity: float = 10.0
    temperature: float = 4.0
    softness: float = 0.5
    keep_turned: float = 1.0
    keep_similar: float = 0.75
    fit_epochs: int = 60
    fit_lr: float = 0.05
    fit_batch_size: int = 64

    automatic: ClassVar[tuple[tuple[str, str], ...]] = (("penultimate", "penultimate"),)
    card: ClassVar[Card] = Card(
        title="SSKD",
        paper=Paper(
            authors="Xu, Liu, Li, Loy",
            year=2020,
            title="Knowledge Distillation Meets Self-Supervision",
            venue="ECCV 2020",
            arxiv="2006.07114",
        ),
        equation="λ1 KD + λ2 KD of turned images + λ3 s² KL(b_T ‖ b_S), "
        "b = softmax_j(cos(h(turned i), h(original j)) / s)",
        data_modification="three turned copies of every image",
        knowledge=("response", "relation"),
        location=("output", "intermediate"),
        transfer="KL divergences of answers and of similarities between views",
        timing="staged",
        task_weight=0.1,
        teacher_access="features",
        separable=False,
        of_each_sample="ranks turned images by their label (keep_turned below 1)",
        exempt={"zero_at_equality": "each network has a learned head of its own"},
        cost=Cost(teacher_forwards=4.0, student_steps=4.0),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("answers", "turned", "similarity"):
            self.require(getattr(self, key) >= 0, key, "a number of at least 0")
        for key in ("temperature", "softness", "fit_lr"):
            self.require(getattr(self, key) > 0, key, "a number above 0")
        for key in ("keep_turned", "keep_similar"):
            self.require(0 <= getattr(self, key) <= 1, key, "a share in [0, 1]")
        self.require(self.fit_epochs >= 1, "fit_epochs", "a whole number of at least 1")
        self.require(self.fit_batch_size >= 2, "fit_batch_size", "a whole number of at least 2")

    @property
    def of_each_sample(self) -> str:
        """Reads labels where some of the turned images are left out."""
        return self.card.of_each_sample if self.keep_turned < 1 else ""

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the layers; build a head on each.

        Raises:
            MethodError: there is not one pair, or the inputs are no square images.
        """
        pairs = self.find_pairs(student, teachers, ctx)
        if len(pairs) != 1:
            taps = ", ".join(pair.student for pair in pairs)
            raise MethodError(f"method.pairs: expected one pair, got {len(pairs)} ({taps}; sskd)")
        assert ctx.example is not None
        check_square(ctx.example)
        return SSKDRuntime(self, pairs[0])

    def _check_forms(self, pair: TapPair) -> None:
        """Features of any form are flattened."""


class SSKDRuntime(PairedRuntime):
    """SSKD at work: turned images behind every batch, and a head on either network."""

    found: Tensor

    def __init__(self, method: SSKD, pair: TapPair) -> None:
        super().__init__(method, [pair])
        self.student_head = make_head(pair.student_shape)
        self.teacher_head = make_head(pair.teacher_shape).requires_grad_(False)
        self.register_buffer("found", torch.zeros(()))

    def fit(self, data: DataBundle, ctx: Context) -> None:
        """Fit the teacher's head: which original is a turned image's own?"""
        method = cast(SSKD, self.method)
        head = self.teacher_head.requires_grad_(True)
        optimizer = SGD(head.parameters(), lr=method.fit_lr, momentum=0.9, weight_decay=5e-4)
        for epoch in range(method.fit_epochs):
            done = epoch / method.fit_epochs
            rate = method.fit_lr * (0.1 if done >= 0.5 else 1.0) * (0.1 if done >= 0.75 else 1.0)
            optimizer.param_groups[0]["lr"] = rate
            found = [
                self._fit_step(self.batch(batch.to(ctx.device), ctx), optimizer, ctx)
                for batch in training_batches(data, method.fit_batch_size, ctx.seed, epoch)
            ]
            self.found.copy_(torch.cat(found).double().mean())
        head.requires_grad_(False)
        for parameter in head.parameters():
            parameter.grad = None

    def _fit_step(self, batch: Batch, optimizer: torch.optim.Optimizer, ctx: Context) -> Tensor:
        """Take one step; return whose original had been found before it."""
        (tap,) = self.teacher_taps()
        said = ctx.teacher(batch, self.method.teacher, taps=(tap,)).features[tap].detach()
        with torch.enable_grad():
            scores = similarities(self.teacher_head, said)
            whose = owners(scores)
            loss = functional.cross_entropy(scores, whose)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
        optimizer.step()
        return scores.detach().argmax(dim=1) == whose

    def batch(self, batch: Batch, ctx: Context) -> Batch:
        """Append the turned images."""
        return with_turned(batch)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``sskd_answers``, ``sskd_turned`` and ``sskd_similarity``."""
        method = cast(SSKD, self.method)
        count = len(batch) // (TURNS + 1)
        heat, taught = method.temperature, teacher.logits.detach()
        answers = functional.kd(student.logits[:count], taught[:count], temperature=heat)
        labels = taught.new_full((count,), IGNORE, dtype=torch.int64)
        if batch.targets is not None:
            labels = batch.targets[:count]
        kept = functional.least_wrong(
            taught[count:], labels.repeat(TURNS), share=method.keep_turned
        )
        turned = functional.kd(student.logits[count:][kept], taught[count:][kept], temperature=heat)
        (ours,), (theirs,) = self.features(student, teacher)
        mine = similarities(self.student_head, ours)
        with torch.no_grad():
            other = similarities(self.teacher_head, theirs)
        kept = functional.least_wrong(other, owners(other), share=method.keep_similar)
        alike = functional.kd(mine[kept], other[kept], temperature=method.softness)
        return {
            "sskd_answers": method.answers * answers,
            "sskd_turned": method.turned * turned,
            "sskd_similarity": method.similarity * alike,
        }

    def report(self) -> Mapping[str, float]:
        """The share of originals that the teacher's head found in the last epoch of its fit."""
        return {"originals_found": float(self.found)}
