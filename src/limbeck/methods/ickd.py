"""ICKD: the student's channels should respond together where the teacher's do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import ShapeError
from limbeck.methods.base import Runtime, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.paired import FORMS, Paired, PairedRuntime, as_map, map_shape, total
from limbeck.methods.registry import register_method
from limbeck.taps import TapPair
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("ickd")
@dataclass(frozen=True, kw_only=True)
class ICKD(Paired):
    r"""Liu et al. (2021): correlations between the channels of the last map, for each sample.

    .. math:: \frac{1}{C} \| G_S - G_T \|_F^2, \quad
              G = \mathrm{rows}( F F^\top ), \; F \in \mathbb{R}^{C \times HW}

    The rows of G have length 1. Two channels that respond at the same positions are homologous,
    others diverse; a student that keeps both keeps the shape of the teacher's feature space. A 1x1
    convolution with batch norm, trained with the student and left behind, gives the student's map
    as many channels as the teacher's has.

    Positions are summed over: maps of any size, and maps and tokens, can be compared. G has
    C² entries a sample.

    Args:
        weight: weight of the term (2.5, beside a task weight of 1: the authors' commands for
            ResNet-32x4 to 8x4, with or without KD of weight 1).
        pairs: "auto" takes the last stages; a tap of the same name in both; or pairs
            ``((student tap, teacher tap), …)``.
    """

    weight: float = 2.5

    automatic: ClassVar[tuple[tuple[str, str], ...]] = (("stages[-1]", "stages[-1]"),)
    card: ClassVar[Card] = Card(
        title="ICKD",
        paper=Paper(
            authors="Liu, Huang, Lin, Xie, Wang, Chang, Liang",
            year=2021,
            title="Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge "
            "Distillation",
            venue="ICCV 2021",
            arxiv="2202.03680",
        ),
        equation="‖G_S - G_T‖² / C, G the rows of F Fᵀ over positions, of length 1",
        knowledge=("feature", "relation"),
        location=("intermediate",),
        transfer="squared error of correlations between channels",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="features",
        supervision="no labels",
        exempt={"zero_at_equality": "a learned embedding stands between the layers"},
    )

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the layers; embed the student's."""
        return ICKDRuntime(self, self.find_pairs(student, teachers, ctx))

    def _check_forms(self, pair: TapPair) -> None:
        """Maps and tokens both have channels and positions."""
        forms = [FORMS.get(len(shape)) for shape in (pair.student_shape, pair.teacher_shape)]
        if not set(forms) <= set(self.reads):
            raise ShapeError(
                f"method {self.name}: student tap {pair.student!r} {list(pair.student_shape)} and "
                f"teacher tap {pair.teacher!r} {list(pair.teacher_shape)}: reads maps or tokens, "
                "which have channels and positions; name layers that have "
                "(pairs: [[student tap, teacher tap]])"
            )


class ICKDRuntime(PairedRuntime):
    """ICKD at work: an embedding of each of the student's layers."""

    def __init__(self, method: ICKD, pairs: Sequence[TapPair]) -> None:
        super().__init__(method, pairs)
        self.embeddings = nn.ModuleList(
            make_embedding(map_shape(pair.student_shape)[1], map_shape(pair.teacher_shape)[1])
            for pair in pairs
        )

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"ickd": scalar}``, the sum over the pairs."""
        rows = zip(self.embeddings, *self.features(student, teacher), strict=True)
        return {
            "ickd": total(
                [
                    functional.channel_correlation(embed(as_map(ours)), as_map(theirs))
                    for embed, ours, theirs in rows
                ]
            )
        }


def make_embedding(channels: int, out_channels: int) -> nn.Sequential:
    """Return a 1x1 convolution without bias and a batch norm."""
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
    )
