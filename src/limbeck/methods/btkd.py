"""BTKD: what the teacher knows first, what it gets wrong, rectified, later."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.compose import as_methods
from limbeck.methods.context import Context
from limbeck.methods.counting import CountingRuntime
from limbeck.methods.kd import KD
from limbeck.methods.registry import register_method
from limbeck.methods.supervised import labels_of
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("btkd")
@dataclass(frozen=True, kw_only=True)
class BTKD(Method):
    r"""Zhang et al. (2024): any loss on outputs, on right answers and on rectified wrong ones.

    .. math:: b(e) \, L(\text{teacher right}) + (1 - b(e)) \, L(R(\text{teacher wrong})),
              \quad b(e) = \cos^2(\tfrac{\pi}{2} e / E)

    Each part is averaged over its own samples, so one wrong answer can weigh as much as all right
    ones together; an empty part is 0. At epoch e of E the weight has moved from the first part to
    the second. Samples without a label keep the teacher's answer and belong to the first. The log
    of each epoch has the share of wrong answers: with none, half of the run teaches ever less.

    Args:
        weight: weight of the knowledge term (0.5, beside a task weight of 0.5).
        base: the loss L: a method on outputs that is a mean over samples, as a name, a mapping
            ``{name: dkd, beta: 2}`` or an object. Its own weight scales it. None: the paper's,
            ``kd`` at temperature 4 with a weight of 1.
        rectify: R on probabilities: "pairwise" moves label and first choice half way to 1 and 0
            and keeps their sum, "swap" exchanges them, "one_hot_average" averages with the label.
        space: "probs" rectifies the softened probabilities; "logits" applies the same rule to raw
            logits, as the authors' code does, which can divide by zero: such samples are swapped.
        schedule: "cosine", or "fixed": b = ``easy_share`` throughout.
        easy_share: b of the fixed schedule, in [0, 1]; 1: bias elimination alone.
    """

    weight: float = 0.5
    base: Any = None
    rectify: Literal["pairwise", "swap", "one_hot_average"] = "pairwise"
    space: Literal["probs", "logits"] = "probs"
    schedule: Literal["cosine", "fixed"] = "cosine"
    easy_share: float = 0.5

    card: ClassVar[Card] = Card(
        title="BTKD",
        paper=Paper(
            authors="Zhang, Gao, Liu, Cheng, Zhang, Chen",
            year=2024,
            title="Can Students Beyond The Teacher? Distilling Knowledge from Teacher's Bias",
            venue="AAAI 2025",
            arxiv="2412.09874",
        ),
        equation="b(e) L(right) + (1-b(e)) L(R(wrong)), b(e) = cos²(π e / 2E)",
        data_partition="by whether the teacher is right",
        transfer="a loss on outputs, of rectified answers",
        supervision="labels optional",
        separable=False,
        of_each_sample="repairs the teacher where it misses a sample's label",
        task_weight=0.5,
        exempt={
            "halves": "each part is averaged over its own samples of the batch",
            "zero_at_equality": "a wrong answer is rectified, so its own copy is not zero",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given = dict(self.base) if isinstance(self.base, Mapping) else self.base
        chosen = as_methods(KD(weight=1.0) if given is None else given)
        object.__setattr__(self, "base", chosen[0])
        card = chosen[0].card
        self.require(
            len(chosen) == 1
            and card.needs_teacher
            and not card.needs_features
            and card.students == "one"
            and card.separable
            and not card.replaces_task,
            "base",
            "one method that needs outputs only and is a mean over samples, such as kd or dkd",
        )
        rules = ("pairwise", "swap", "one_hot_average")
        self.require(self.rectify in rules, "rectify", " or ".join(rules))
        self.require(self.space in ("probs", "logits"), "space", "probs or logits")
        self.require(self.schedule in ("cosine", "fixed"), "schedule", "cosine or fixed")
        self.require(0 <= self.easy_share <= 1, "easy_share", "a number in [0, 1]")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Count the wrong answers."""
        return BTKDRuntime(self, ("wrong",))

    def easy_weight(self, epoch: int, epochs: int) -> float:
        """Return b at an epoch, from 0, of so many."""
        if self.schedule == "fixed":
            return self.easy_share
        return math.cos(math.pi / 2 * epoch / max(epochs, 1)) ** 2

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"easy": scalar, "hard": scalar}``, the schedule included."""
        targets = labels_of(batch, self.name)
        wrong = functional.is_wrong(teacher.logits, targets)
        share = self.easy_weight(ctx.epoch, ctx.epochs)
        repaired = self.rectified(teacher.logits[wrong], targets[wrong])
        easy = self._part(student, teacher.logits[~wrong], batch, ~wrong, ctx)
        hard = self._part(student, repaired, batch, wrong, ctx)
        return {"easy": share * easy, "hard": (1 - share) * hard}

    def rectified(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return logits, ``[wrong, classes]``, that give the rectified answers."""
        if self.rectify == "swap":  # the same in both spaces
            return functional.swap_with_label(logits, targets)
        if self.space == "logits":
            edited = functional.rectify(logits, targets, mode=self.rectify)
            broken = ~torch.isfinite(edited).all(dim=-1, keepdim=True)
            return torch.where(broken, functional.swap_with_label(logits, targets), edited)
        temperature = getattr(self.base, "temperature", 1.0)
        probs = (logits.double() / temperature).softmax(dim=-1)
        return temperature * functional.rectify(probs, targets, mode=self.rectify).log()

    def _part(
        self, student: Outputs, teacher: Tensor, batch: Batch, rows: Tensor, ctx: Context
    ) -> Tensor:
        """Return the base loss averaged over the samples in ``rows``."""
        assert batch.targets is not None
        ours = Outputs(student.logits[rows])
        some = Batch(
            inputs=ours.logits,
            targets=batch.targets[rows],
            index=None if batch.index is None else batch.index[rows],
        )
        terms: Terms = self.base.losses(ours, Outputs(teacher.to(student.logits.device)), some, ctx)
        weight: float = self.base.weight
        return weight * torch.stack(list(terms.values())).sum()


class BTKDRuntime(CountingRuntime):
    """BTKD at work: how often the teacher was wrong goes to the log."""

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return the terms, having counted."""
        wrong = functional.is_wrong(teacher.logits, labels_of(batch, self.method.name))
        self.count(len(wrong), wrong=wrong)
        return self.method.losses(student, teacher, batch, ctx)
