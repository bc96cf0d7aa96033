"""AT: the student should look where the teacher looks, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from limbeck import functional
from limbeck.methods.card import Card, Paper
from limbeck.methods.paired import Paired, as_map, total
from limbeck.methods.registry import register_method


@register_method("at")
@dataclass(frozen=True, kw_only=True)
class AT(Paired):
    r"""Zagoruyko and Komodakis (2017): attention maps of paired stages.

    .. math:: \sum_l \mathrm{mean}\,( A_S^l - A_T^l )^2, \quad
              A = \frac{a}{\|a\|_2}, \; a = \mathrm{mean}_c \, F_c^p

    An attention map says how strongly a layer responds at each position, whatever its channels
    are: widths may differ, and larger maps are average-pooled to the size of the smaller. Tokens
    are positions, their entries channels. Scaling a sample's map changes nothing.

    Args:
        weight: weight of the term (1000, beside a task weight of 1, as RepDistiller and mdistiller
            run it; it belongs to the elementwise distance).
        pairs: "auto" pairs the stages; a tap of the same name in both; or pairs
            ``((student tap, teacher tap), …)``.
        power: p, a whole number of at least 1; its sign is kept.
        distance: "elementwise" mean of squares, as in the authors' code, or the "norm" of the
            difference of each sample.
    """

    weight: float = 1000.0
    pairs: str | tuple[Any, ...] = "auto"
    power: int = 2
    distance: Literal["elementwise", "norm"] = "elementwise"

    card: ClassVar[Card] = Card(
        title="AT",
        paper=Paper(
            authors="Zagoruyko, Komodakis",
            year=2017,
            title="Paying More Attention to Attention: Improving the Performance of "
            "Convolutional Neural Networks via Attention Transfer",
            venue="ICLR 2017",
            arxiv="1612.03928",
        ),
        equation="Σ_l mean (A_S - A_T)², A = (mean_c F^p) / ‖mean_c F^p‖",
        knowledge=("feature",),
        location=("intermediate",),
        transfer="squared error of attention maps",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="features",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        whole = isinstance(self.power, int) and self.power >= 1
        self.require(whole, "power", "a whole number of at least 1")
        self.require(self.distance in ("elementwise", "norm"), "distance", "elementwise or norm")

    def compare(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return the sum over the pairs."""
        return total(
            [
                functional.attention_transfer(
                    as_map(ours), as_map(theirs), power=self.power, distance=self.distance
                )
                for ours, theirs in zip(student, teacher, strict=True)
            ]
        )
