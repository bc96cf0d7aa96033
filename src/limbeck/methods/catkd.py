"""CAT-KD: for every class, the student should look where the teacher looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from torch import nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import ShapeError
from limbeck.methods.base import Runtime, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.layers import find_pairs, heads_of
from limbeck.methods.paired import Paired, PairedRuntime
from limbeck.methods.registry import register_method
from limbeck.taps import LinearHead, TapPair
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("catkd")
@dataclass(frozen=True, kw_only=True)
class CATKD(Paired):
    r"""Guo et al. (2023): class attention transfer, with the activation maps of all classes.

    .. math:: \mathrm{mean}\,( \bar M_S - \bar M_T )^2, \quad
              M^k(x) = \textstyle\sum_c w_{kc} F_c(x)

    :math:`\bar M` is M average-pooled and divided by its length. A class activation map says where
    the evidence for a class lies; it exists where the classifier reads the mean of a map over
    positions. The student's classifier is trained through its maps too.

    Helps where the student's features and the teacher's differ in width and form: no adapter stands
    between them. Says little where the last map has few positions.

    Args:
        weight: weight of the term (400, beside a task weight of 1: the default configuration of the
            authors' code, whose own for a pair of networks run from 0.7 to 600).
        pairs: "auto" finds the map that each network averages before its classifier; or one pair
            ``((student tap, teacher tap),)``.
        size: height and width of the pooled maps, at least 1 (2; 4 for ShuffleNets in the code).
        normalise: whether maps are divided by their length (the code leaves it out for pairs of one
            family, with weights between 0.7 and 15).
        binarise: whether the teacher's maps are cut to 0 and 1: what is left is where it looks.
    """

    weight: float = 400.0
    pairs: str | tuple[Any, ...] = "auto"
    size: int = 2
    normalise: bool = True
    binarise: bool = False

    reads: ClassVar[tuple[str, ...]] = ("maps",)
    card: ClassVar[Card] = Card(
        title="CAT-KD",
        paper=Paper(
            authors="Guo, Yan, Li, Lin",
            year=2023,
            title="Class Attention Transfer Based Knowledge Distillation",
            venue="CVPR 2023",
            arxiv="2304.12777",
        ),
        equation="mean (M_S/‖M_S‖ - M_T/‖M_T‖)², M pooled class activation maps",
        knowledge=("feature", "explanation"),
        location=("intermediate",),
        transfer="squared error of class activation maps",
        tasks=("classification", "multilabel"),
        min_classes=1,
        teacher_access="head",
        exempt={
            "zero_at_equality": "each network's own classifier weighs its features: the same "
            "features under other weights are other maps"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        whole = isinstance(self.size, int) and self.size >= 1
        self.require(whole, "size", "a whole number of at least 1")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Find the maps that the classifiers read averaged, and the classifiers.

        Raises:
            ShapeError: "auto" finds no such map, or a map is not what its classifier reads.
        """
        heads = heads_of(self, student, teachers, ctx)
        pairs: Any = self.pairs
        if pairs == "auto":
            for side, head in zip(("student", "teacher"), heads, strict=True):
                if head.averaged is None:
                    raise ShapeError(
                        f"method {self.name}: the {side}'s classifier {head.path!r} reads the mean "
                        "of no map, so that there are no class activation maps; name the maps it "
                        "is made of (pairs: [[student tap, teacher tap]])"
                    )
            pairs = ((heads[0].averaged, heads[1].averaged),)
        found = find_pairs(self, pairs, student, teachers, ctx)
        for pair in found:
            self._check_forms(pair)
        self._check_widths(found, heads)
        return CATKDRuntime(self, found, heads)

    def _check_widths(self, found: Sequence[TapPair], heads: Sequence[LinearHead]) -> None:
        if len(found) != 1:
            raise ShapeError(
                f"method {self.name}: compares one map of each network, found {len(found)} pairs "
                f"({', '.join(pair.student for pair in found)}); name one pair"
            )
        (pair,) = found
        ours = ("student", pair.student, pair.student_shape, heads[0])
        theirs = ("teacher", pair.teacher, pair.teacher_shape, heads[1])
        for side, tap, shape, head in (ours, theirs):
            if shape[1] != head.weight.shape[1]:
                raise ShapeError(
                    f"method {self.name}: {side} tap {tap!r} has {shape[1]} channels, its "
                    f"classifier {head.path!r} reads {head.weight.shape[1]}: name the map that it "
                    "reads averaged (pairs: [[student tap, teacher tap]])"
                )


class CATKDRuntime(PairedRuntime):
    """CAT-KD at work: it knows both classifiers, which stay parts of their networks."""

    def __init__(
        self, method: CATKD, pairs: Sequence[TapPair], heads: tuple[LinearHead, LinearHead]
    ) -> None:
        super().__init__(method, pairs)
        self.__dict__["heads"] = heads  # no parts of this module: not in its state

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"catkd": scalar}``."""
        method = cast(CATKD, self.method)
        (ours,), (theirs,) = self.features(student, teacher)
        our_head, their_head = self.__dict__["heads"]
        value = functional.class_attention(
            functional.class_activation_maps(ours, our_head.weight),
            functional.class_activation_maps(theirs, their_head.weight.detach()),
            size=method.size,
            normalise=method.normalise,
            binarise=method.binarise,
        )
        return {"catkd": value}
