"""Partial teachers: KD with one level of the teacher's knowledge left.

Tang et al. (2020, arXiv 2002.03532) tell three levels apart: label smoothing, class relations,
and the re-weighting of samples. We had the abstract and summaries of the paper, not its text, so
exponents and temperatures are parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import IGNORE, Batch
from limbeck.errors import MethodError, TeacherError, unknown
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Cost, Paper
from limbeck.methods.context import Context
from limbeck.methods.layers import answering, teacher_with_layers
from limbeck.methods.registry import register_method
from limbeck.methods.supervised import labels_of
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle

_PAPER = Paper(
    authors="Tang, Shivanna, Zhao, Lin, Singh, Chi, Jain",
    year=2020,
    title="Understanding and Improving Knowledge Distillation",
    arxiv="2002.03532",
)


def soft_loss(logits: Tensor, probs: Tensor, *, temperature: float, known: Tensor) -> Tensor:
    """Return the mean of KL(probs ‖ softmax(logits / T)); samples not ``known`` cost 0. No T².

    Args:
        logits: of the student, ``[batch, classes]``.
        probs: ``[batch, classes]``.
        temperature: T of the student.
        known: bool ``[batch]``.
    """
    rows = functional.kl_divergence(logits / temperature, probs.log(), reduction="none")
    return torch.where(known, rows, 0.0).sum() / max(len(rows), 1)


@register_method("kd_topk")
@dataclass(frozen=True, kw_only=True)
class KDTopK(Method):
    r"""Tang et al. (2020), KD-topk: the teacher's largest probabilities, the rest made even.

    .. math:: \mathrm{KL}(\mathrm{top}_k(\sigma(z_T / T)) \,\|\, \sigma(z_S / T))

    The tail of a teacher's answer is mostly noise; k = all classes is plain KD without T².

    Args:
        weight: λ, weight of the knowledge term, beside a task weight of 0.5 (the paper's is not
            known to us).
        share: k as a share of the classes, in (0, 1]; at least one class stays. The paper is said
            to have found 0.25 best on CIFAR-100, 0.5 on ImageNet.
        temperature: softening of both sides, above 0.
    """

    weight: float = 0.5
    share: float = 0.25
    temperature: float = 4.0

    card: ClassVar[Card] = Card(
        title="KD-topk",
        paper=_PAPER,
        equation="KL(top_k(softmax(z_T/T)) ‖ softmax(z_S/T)), the rest spread evenly",
        faithful="faithful in part",
        transfer="KL divergence to a truncated answer",
        task_weight=0.5,
        min_classes=3,
        exempt={"zero_at_equality": "the tail is made even; zero with share=1"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 < self.share <= 1, "share", "a number in (0, 1]")
        self.require(self.temperature > 0, "temperature", "a number above 0")

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"kd_topk": scalar}``."""
        probs = (teacher.logits.double() / self.temperature).softmax(dim=-1)
        k = max(1, round(self.share * probs.shape[-1]))
        known = torch.ones(len(probs), dtype=torch.bool, device=probs.device)
        value = soft_loss(
            student.logits,
            functional.keep_top_k(probs, k),
            temperature=self.temperature,
            known=known,
        )
        return {"kd_topk": value}


@register_method("kd_pt")
@dataclass(frozen=True, kw_only=True)
class KDPt(Method):
    r"""Tang et al. (2020), KD-pt: only how sure the teacher is of the label.

    .. math:: \rho_t = p_t, \quad \rho_i = (1 - p_t) / (K - 1)

    Isolates the re-weighting of samples. Samples without a label cost nothing.

    Args:
        weight: λ, weight of the knowledge term, beside a task weight of 0.5.
        temperature: softening of the teacher before p_t is read, above 0.
        student_temperature: softening of the student, above 0 (1: as it is).
    """

    weight: float = 0.5
    temperature: float = 1.0
    student_temperature: float = 1.0

    card: ClassVar[Card] = Card(
        title="KD-pt",
        paper=_PAPER,
        equation="KL(ρ ‖ softmax(z_S)), ρ = p_t on the label, (1-p_t)/(K-1) elsewhere",
        faithful="faithful in part",
        transfer="KL divergence to a made-up answer",
        supervision="labels",
        task_weight=0.5,
        exempt={"zero_at_equality": "the classes beside the label are made even"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("temperature", "student_temperature"):
            self.require(getattr(self, name) > 0, name, "a number above 0")

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"kd_pt": scalar}``."""
        targets = labels_of(batch, self.name)
        known = targets != IGNORE
        probs = (teacher.logits.double() / self.temperature).softmax(dim=-1)
        value = soft_loss(
            student.logits,
            functional.keep_confidence(probs, torch.where(known, targets, 0)),
            temperature=self.student_temperature,
            known=known,
        )
        return {"kd_pt": value}


class TableRuntime(Runtime):
    """At work: one row of a fixed table of class probabilities for each label."""

    def __init__(self, method: Method, table: Tensor, *, student_temperature: float) -> None:
        super().__init__(method)
        self.student_temperature = student_temperature
        self.table: Tensor
        self.register_buffer("table", table)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return the divergence to the label's row; samples without a label cost nothing."""
        targets = labels_of(batch, self.method.name)
        known = targets != IGNORE
        rows = self.table[torch.where(known, targets, 0)]
        value = soft_loss(student.logits, rows, temperature=self.student_temperature, known=known)
        return {self.method.name: value}


@register_method("kd_sim")
@dataclass(frozen=True, kw_only=True)
class KDSim(Method):
    r"""Tang et al. (2020), KD-sim: only which classes are alike, read off the teacher's last layer.

    .. math:: \rho_t = \mathrm{softmax}(\mathrm{sign}(s_t) |s_t|^a / T),
              \quad s_{ti} = \cos(w_t, w_i)

    Depends on the label alone; w are the rows of the teacher's classifier. Samples without a
    label cost nothing.

    Args:
        weight: λ, weight of the knowledge term, beside a task weight of 0.5.
        power: sharpens the cosines, above 0. A negative cosine keeps its sign.
        temperature: softens the row, above 0; cosines lie in [-1, 1], so small values are needed
            for a row that is not nearly even.
        student_temperature: softening of the student, above 0.
    """

    weight: float = 0.5
    power: float = 1.0
    temperature: float = 0.3
    student_temperature: float = 1.0

    card: ClassVar[Card] = Card(
        title="KD-sim",
        paper=_PAPER,
        equation="KL(softmax(sign(s)|s|^a / T) ‖ softmax(z_S)), s = cosines of the head's rows",
        faithful="faithful in part",
        knowledge=("relation",),
        transfer="KL divergence to a table of similar classes",
        supervision="labels",
        teacher_access="head",
        task_weight=0.5,
        min_classes=3,
        max_classes=16_384,
        exempt={"zero_at_equality": "the table does not depend on the teacher's answers"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("power", "temperature", "student_temperature"):
            self.require(getattr(self, name) > 0, name, "a number above 0")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Read the teacher's head into a table."""
        from limbeck.taps import head_of

        teacher = teacher_with_layers(self, teachers)
        if teacher.module is None:
            raise TeacherError(f"teachers.{teacher.name}: has no head that kd_sim could read")
        head = head_of(teacher.module)
        weight = getattr(head, "weight", None)
        if not isinstance(weight, Tensor) or weight.dim() != 2:
            raise TeacherError(
                f"teachers.{teacher.name}: its head has no matrix of weights that kd_sim could read"
            )
        weight = cast(nn.Linear, answering(teacher, head)).weight
        table = functional.class_similarity(weight, power=self.power, temperature=self.temperature)
        return TableRuntime(self, table, student_temperature=self.student_temperature)


@register_method("kd_rel")
@dataclass(frozen=True, kw_only=True)
class KDRel(Method):
    r"""Tang et al. (2020), KD-rel: a hand-made prior from a class hierarchy, no teacher at all.

    .. math:: \rho_t = a, \quad \rho_i = b_1 \text{ in the same superclass}, \; b_2 \text{ else}

    Samples without a label cost nothing.

    Args:
        weight: λ, weight of the knowledge term, beside a task weight of 0.5.
        own: a, the label's probability, in (0, 1].
        within: share of 1 - a that goes to the other classes of the superclass, in [0, 1].
        hierarchy: name of the data's superclasses (``data.superclasses``); None: the only one.
        student_temperature: softening of the student, above 0.
    """

    weight: float = 0.5
    own: float = 0.9
    within: float = 0.7
    hierarchy: str | None = None
    student_temperature: float = 1.0

    card: ClassVar[Card] = Card(
        title="KD-rel",
        paper=_PAPER,
        equation="KL(ρ ‖ softmax(z_S)), ρ = a on the label, b₁ in its superclass, b₂ elsewhere",
        faithful="faithful in part",
        teachers="none (a rule over labels)",
        knowledge=("relation",),
        transfer="KL divergence to a table of related classes",
        supervision="labels",
        teacher_access="none",
        cost=Cost(teacher_forwards=0),
        task_weight=0.5,
        min_classes=3,
        max_classes=16_384,
        exempt={"zero_at_equality": "there is no teacher to be equal to"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 < self.own <= 1, "own", "a number in (0, 1]")
        self.require(0 <= self.within <= 1, "within", "a number in [0, 1]")
        self.require(self.student_temperature > 0, "student_temperature", "a number above 0")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Make the table from the data's hierarchy."""
        known = cast("Mapping[str, Tensor]", data.superclasses if data is not None else {})
        if self.hierarchy is None and len(known) == 1:
            groups = next(iter(known.values()))
        elif self.hierarchy in known:
            groups = known[cast(str, self.hierarchy)]
        elif not known:
            raise MethodError("method kd_rel: needs data with superclasses, these have none")
        else:
            name = "(none given)" if self.hierarchy is None else self.hierarchy
            raise MethodError("method.hierarchy: " + unknown("hierarchy", name, known))
        table = functional.class_hierarchy(groups, own=self.own, within=self.within)
        return TableRuntime(self, table, student_temperature=self.student_temperature)
