"""FSP: from one layer to the next, the student should go the teacher's way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from torch import Tensor, nn

from limbeck import functional
from limbeck.methods.base import Runtime, Stage
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.paired import Paired, as_map, first_stages
from limbeck.methods.registry import register_method
from limbeck.methods.widths import WidthRuntime, at_least_two
from limbeck.taps import TapPair

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("fsp")
@dataclass(frozen=True, kw_only=True)
class FSP(Paired):
    r"""Yim et al. (2017): matrices of the flow between consecutive stages.

    .. math:: \sum_l \mathrm{mean} \, (G_S^l - G_T^l)^2, \quad
              G^l = \mathrm{mean}_{x} \, F^{l+1}(x) \, F^l(x)^\top

    In two phases, as the reference code: first this term alone, which gives the student a start,
    then the task and all other methods without it: ``KD() + FSP()``. Within a matrix the larger map
    is average-pooled. The numbers of channels must be the teacher's; where they are not, learned
    1x1 convolutions stand between, which is ours.

    Args:
        weight: weight of the term (1).
        pairs: "auto" pairs the stages; or at least two pairs ``((student tap, teacher tap), …)`` in
            order of depth.
        init_epochs: epochs of the first phase, part of ``train.epochs``, at least 0; None: an
            eighth of them (30 of 240); 0: one joint phase.
        projector: "auto", or "identity" to refuse layers of different widths.
    """

    pairs: str | tuple[Any, ...] = "auto"
    init_epochs: int | None = None
    projector: Literal["auto", "identity"] = "auto"

    card: ClassVar[Card] = Card(
        title="FSP",
        paper=Paper(
            authors="Yim, Joo, Bae, Kim",
            year=2017,
            title="A Gift from Knowledge Distillation: Fast Optimization, Network Minimization "
            "and Transfer Learning",
            venue="CVPR 2017",
        ),
        equation="Σ_l mean (G_S - G_T)², G = mean over positions of F_(l+1) F_lᵀ",
        knowledge=("feature", "relation"),
        location=("intermediate",),
        transfer="squared error of flow matrices",
        timing="staged",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="features",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.init_epochs is None or self.init_epochs >= 0
        self.require(known, "init_epochs", "a whole number of at least 0, or none")
        self.require(self.projector in ("auto", "identity"), "projector", "auto or identity")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the layers; project where their widths differ."""
        return FSPRuntime(self, at_least_two(self, student, teachers, ctx))

    def compare(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return the sum over consecutive layers."""
        return functional.fsp(*([as_map(one) for one in side] for side in (student, teacher)))


class FSPRuntime(WidthRuntime):
    """FSP at work, in its phases."""

    def __init__(self, method: FSP, pairs: Sequence[TapPair]) -> None:
        super().__init__(method, pairs, method.projector)

    def stages(self, epochs: int) -> tuple[Stage, ...]:
        """The start and the rest, or nothing where both are one."""
        method = cast(FSP, self.method)
        return first_stages(method.name, method.init_epochs, epochs)
