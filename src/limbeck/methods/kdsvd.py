"""KD-SVD: the main directions of the features, from layer to layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from limbeck import functional
from limbeck.methods.base import Runtime
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.paired import Paired, as_map
from limbeck.methods.registry import register_method
from limbeck.methods.widths import WidthRuntime, at_least_two

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("kdsvd")
@dataclass(frozen=True, kw_only=True)
class KDSVD(Paired):
    r"""Lee, Kim and Song (2018): singular vectors of the stages, and how they change with depth.

    .. math:: \sum_l \frac{1}{B} \left\| e^{-(V_S^{l+1} - V_S^l)^2 / 8}
              - e^{-(V_T^{l+1} - V_T^l)^2 / 8} \right\|^2

    V are the first right singular vectors of a stage with positions as rows and channels as
    columns, times the teacher's singular values scaled to length 1; the student has three more, of
    which those most like the teacher's count. A vector's sign, free in the decomposition, is
    chosen so that its entries do not sum to less than 0. Sizes may differ, widths may not: where
    they do, learned 1x1 convolutions stand between, which is ours.

    Args:
        weight: weight of the term (1, beside a task weight of 1, as RepDistiller and mdistiller
            run it).
        pairs: "auto" pairs the stages; or at least two pairs ``((student tap, teacher tap), …)`` in
            order of depth.
        rank: singular vectors of each stage, at least 1.
        projector: "auto", or "identity" to refuse layers of different widths.
    """

    pairs: str | tuple[Any, ...] = "auto"
    rank: int = 1
    projector: Literal["auto", "identity"] = "auto"

    card: ClassVar[Card] = Card(
        title="KD-SVD",
        paper=Paper(
            authors="Lee, Kim, Song",
            year=2018,
            title="Self-supervised Knowledge Distillation Using Singular Value Decomposition",
            venue="ECCV 2018",
            arxiv="1807.06819",
        ),
        equation="Σ_l ‖exp(-ΔV_S²/8) - exp(-ΔV_T²/8)‖² / B, ΔV between consecutive stages",
        faithful="faithful in part",
        knowledge=("feature", "relation"),
        location=("intermediate",),
        transfer="squared error of radial basis functions of singular vectors",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="features",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        whole = isinstance(self.rank, int) and self.rank >= 1
        self.require(whole, "rank", "a whole number of at least 1")
        self.require(self.projector in ("auto", "identity"), "projector", "auto or identity")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the layers; project where their widths differ."""
        return WidthRuntime(self, at_least_two(self, student, teachers, ctx), self.projector)

    def compare(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return the sum over consecutive layers."""
        ours, theirs = ([as_map(one) for one in side] for side in (student, teacher))
        return functional.singular_flow(ours, theirs, rank=self.rank)
