"""NST: the channels' maps of student and teacher should be drawn from one distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from limbeck import functional
from limbeck.methods.card import Card, Paper
from limbeck.methods.paired import Paired, as_map, total
from limbeck.methods.registry import register_method


@register_method("nst")
@dataclass(frozen=True, kw_only=True)
class NST(Paired):
    r"""Huang and Wang (2017): maximum mean discrepancy between the channel maps of paired stages.

    .. math:: \sum_l \mathrm{mean}\, k(t, t') + \mathrm{mean}\, k(s, s') - 2 \, \mathrm{mean}\,
              k(s, t), \quad k(x, y) = (x^\top y)^2

    ``s`` and ``t`` are the maps of single channels, scaled to length 1; the means run over pairs of
    channels and over samples. Widths may differ; larger maps are average-pooled to the size of the
    smaller. Tokens are positions, their entries channels.

    Args:
        weight: weight of the term (50, beside a task weight of 1, as RepDistiller and mdistiller
            run it with the polynomial kernel).
        pairs: "auto" pairs the stages; a tap of the same name in both; or pairs
            ``((student tap, teacher tap), …)``.
        kernel: "poly": ⟨x, y⟩ to the power ``degree``; "gaussian"; or "linear".
        degree: of the polynomial kernel, a whole number of at least 1.
        bandwidth: σ² of the Gaussian kernel, above 0; None: the mean squared distance between a
            sample's student and teacher maps.
    """

    weight: float = 50.0
    pairs: str | tuple[Any, ...] = "auto"
    kernel: Literal["poly", "gaussian", "linear"] = "poly"
    degree: int = 2
    bandwidth: float | None = None

    card: ClassVar[Card] = Card(
        title="NST",
        paper=Paper(
            authors="Huang, Wang",
            year=2017,
            title="Like What You Like: Knowledge Distill via Neuron Selectivity Transfer",
            arxiv="1707.01219",
        ),
        equation="Σ_l mean k(t,t') + mean k(s,s') - 2 mean k(s,t), k = (x·y)²",
        knowledge=("feature",),
        location=("intermediate",),
        transfer="maximum mean discrepancy",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="features",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        kernels = ("poly", "gaussian", "linear")
        self.require(self.kernel in kernels, "kernel", " or ".join(kernels))
        whole = isinstance(self.degree, int) and self.degree >= 1
        self.require(whole, "degree", "a whole number of at least 1")
        above = self.bandwidth is None or self.bandwidth > 0
        self.require(above, "bandwidth", "a number above 0, or none")

    def compare(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return the sum over the pairs."""
        return total(
            [
                functional.neuron_selectivity(
                    as_map(ours),
                    as_map(theirs),
                    kernel=self.kernel,
                    degree=self.degree,
                    bandwidth=self.bandwidth,
                )
                for ours, theirs in zip(student, teacher, strict=True)
            ]
        )
