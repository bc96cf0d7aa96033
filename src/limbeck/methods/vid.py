"""VID: the student should know enough to guess the teacher's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.methods.base import Runtime, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.paired import Paired, PairedRuntime, as_map, map_shape, total
from limbeck.methods.registry import register_method
from limbeck.taps import TapPair
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("vid")
@dataclass(frozen=True, kw_only=True)
class VID(Paired):
    r"""Ahn et al. (2019): a Gaussian guess of the teacher's features, with learned variances.

    .. math:: \sum_l \mathrm{mean} \, \tfrac12 \left( \frac{(\mu^l(F_S) - F_T)^2}{v^l_c}
              + \log v^l_c \right), \quad v_c = \mathrm{softplus}(\alpha_c) + \epsilon

    μ is three 1x1 convolutions with ReLUs between them; each channel of the teacher has a variance
    of its own. Both are trained with the student and left behind. The term is a bound on mutual
    information and may be negative. The log of each epoch has the mean variance.

    Args:
        weight: weight of the term (1, beside a task weight of 1, as RepDistiller and mdistiller
            run it).
        pairs: "auto" pairs the stages; a tap of the same name in both; or pairs
            ``((student tap, teacher tap), …)``.
        variance: what every variance begins with, above ``epsilon``.
        epsilon: least variance, above 0.
    """

    pairs: str | tuple[Any, ...] = "auto"
    variance: float = 5.0
    epsilon: float = 1e-5

    card: ClassVar[Card] = Card(
        title="VID",
        paper=Paper(
            authors="Ahn, Hu, Damianou, Lawrence, Dai",
            year=2019,
            title="Variational Information Distillation for Knowledge Transfer",
            venue="CVPR 2019",
            arxiv="1904.05835",
        ),
        equation="Σ_l mean ½ ((μ(F_S) - F_T)² / v_c + log v_c), v = softplus(α) + ε",
        knowledge=("feature",),
        location=("intermediate",),
        transfer="negative log-likelihood of a Gaussian",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="features",
        exempt={
            "zero_at_equality": "a log-likelihood under a learned guess, not a distance",
            "non_negative": "the logarithm of a variance below 1 is negative",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.epsilon > 0, "epsilon", "a number above 0")
        self.require(self.variance > self.epsilon, "variance", "a number above epsilon")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the layers; build the guess and the variances of each pair."""
        return VIDRuntime(self, self.find_pairs(student, teachers, ctx))


class VIDRuntime(PairedRuntime):
    """VID at work: regressors and scales, all parameters, so that the optimiser trains both."""

    def __init__(self, method: VID, pairs: Sequence[TapPair]) -> None:
        super().__init__(method, pairs)
        widths = [
            (map_shape(pair.student_shape)[1], map_shape(pair.teacher_shape)[1]) for pair in pairs
        ]
        self.regressors = nn.ModuleList(make_guess(*width) for width in widths)
        start = functional.scale_of_variance(method.variance, epsilon=method.epsilon)
        self.scales = nn.ParameterList(torch.full((width,), start) for _, width in widths)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"vid": scalar}``, the sum over the pairs."""
        ours, theirs = self.features(student, teacher)
        epsilon = cast(VID, self.method).epsilon
        rows = zip(self.regressors, self.scales, ours, theirs, strict=True)
        values = []
        for regressor, scale, mine, other in rows:
            # Pooled first, where the student's map is the larger: a guess at each common position.
            near, far = functional.match_sizes(as_map(mine), as_map(other))
            guess = regressor(near)
            values.append(functional.variational_information(guess, far, scale, epsilon=epsilon))
        return {"vid": total(values)}

    def report(self) -> Mapping[str, float]:
        """The mean variance over all channels."""
        epsilon = cast(VID, self.method).epsilon
        found = torch.cat([nn.functional.softplus(scale.detach()) for scale in self.scales])
        return {"variance": float(found.mean()) + epsilon}


def make_guess(student_width: int, teacher_width: int) -> nn.Sequential:
    """Return μ: three 1x1 convolutions without bias, of the teacher's width."""
    return nn.Sequential(
        nn.Conv2d(student_width, teacher_width, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(teacher_width, teacher_width, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(teacher_width, teacher_width, 1, bias=False),
    )
