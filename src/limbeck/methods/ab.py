"""AB: the student's neurons should fire where the teacher's do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from torch import nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.methods.base import Runtime, Stage, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.paired import PREACTIVATIONS, Paired, PairedRuntime, first_stages, total
from limbeck.methods.registry import register_method
from limbeck.taps import TapPair, make_projector
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("ab")
@dataclass(frozen=True, kw_only=True)
class AB(Paired):
    r"""Heo et al. (2019): the boundary between active and inactive, before the ReLU.

    .. math:: \sum_l 2^{l-L} \; \mathrm{mean}_b \sum (m - \mathrm{sgn}(F_T) \, r(F_S))_+^2

    Neurons whose side is wrong, or right by less than the margin m, count. In two phases, as the
    reference code: first this term alone, which gives the student a start, then the task and all
    other methods without it: ``KD() + AB()``. Connectors r (convolution and batch norm) stand where
    shapes differ; they are trained with the student and left behind.

    Args:
        weight: weight of the term (0.003, RepDistiller's 3/1000).
        pairs: "auto" pairs the stages before their ReLU; a tap of the same name in both; or pairs
            ``((student tap, teacher tap), …)`` in order of depth.
        margin: m, above 0.
        init_epochs: epochs of the first phase, part of ``train.epochs``, at least 0; None: an
            eighth of them (30 of 240); 0: one joint phase.
    """

    weight: float = 0.003
    pairs: str | tuple[Any, ...] = "auto"
    margin: float = 1.0
    init_epochs: int | None = None

    automatic: ClassVar[tuple[tuple[str, str], ...]] = ((PREACTIVATIONS, PREACTIVATIONS),)
    reads: ClassVar[tuple[str, ...]] = ("maps", "vectors")
    card: ClassVar[Card] = Card(
        title="AB",
        paper=Paper(
            authors="Heo, Lee, Yun, Choi",
            year=2019,
            title="Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden "
            "Neurons",
            venue="AAAI 2019",
            arxiv="1811.03233",
        ),
        equation="Σ_l 2^(l-L) mean_b Σ (m - sgn(F_T) r(F_S))₊²",
        knowledge=("feature",),
        location=("intermediate",),
        transfer="squared hinge on the teacher's signs",
        timing="staged",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="features",
        exempt={"zero_at_equality": "the student should pass the boundary by a margin"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.margin > 0, "margin", "a number above 0")
        known = self.init_epochs is None or self.init_epochs >= 0
        self.require(known, "init_epochs", "a whole number of at least 0, or none")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the layers and build a connector for each pair whose shapes differ."""
        return ABRuntime(self, self.find_pairs(student, teachers, ctx))


class ABRuntime(PairedRuntime):
    """AB at work: connectors, and the phases."""

    def __init__(self, method: AB, pairs: Sequence[TapPair]) -> None:
        super().__init__(method, pairs)
        self.connectors = nn.ModuleList(make_connector(pair) for pair in pairs)

    def stages(self, epochs: int) -> tuple[Stage, ...]:
        """The start and the rest, or nothing where both are one."""
        method = cast(AB, self.method)
        return first_stages(method.name, method.init_epochs, epochs)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"ab": scalar}``: deeper layers count twice as much as those before them."""
        margin = cast(AB, self.method).margin
        rows = zip(self.connectors, *self.features(student, teacher), strict=True)
        values = [
            functional.activation_boundary(connector(ours), theirs, margin=margin)
            for connector, ours, theirs in rows
        ]
        last = len(values) - 1
        return {"ab": total([value / 2 ** (last - at) for at, value in enumerate(values)])}


def make_connector(pair: TapPair) -> nn.Module:
    """Return the map to the teacher's shape: none, or FitNet's regressor without its ReLU."""
    if pair.student_shape[1:] == pair.teacher_shape[1:]:
        return nn.Identity()
    kind = "regressor" if len(pair.student_shape) == 4 else "linear"
    return make_projector(
        kind, pair.student_shape, pair.teacher_shape, norm=True, activation=False, names=pair.names
    )
