"""SemCKD: which layer of the teacher a layer of the student learns from is learned, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError
from limbeck.methods.base import Runtime, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.paired import Paired, PairedRuntime, as_map, map_shape
from limbeck.methods.registry import register_method
from limbeck.taps import TapPair
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("semckd")
@dataclass(frozen=True, kw_only=True)
class SemCKD(Paired):
    r"""Chen et al. (2021): every layer of the student against every one of the teacher, weighed.

    .. math:: \mathrm{mean}_{b,l} \sum_j \alpha_{b,l,j} \, \mathrm{mean}
              (p_{l,j}(F_S^l) - F_T^j)^2, \quad
              \alpha_{b,l,\cdot} = \mathrm{softmax}_j
              (\langle q_l(A_S^l)_b, k_j(A_T^j)_b \rangle / s)

    A is the matrix of inner products between the samples of a batch. The projectors p (three
    convolutions), q and k (two linear layers, of length 1) learn with the student and are left
    behind. What q and k read is a sample's row of A: they are learned for one order and one number
    of samples.

    Args:
        weight: weight of the term (400, beside 1 for the task and 1 for KD: the authors').
        pairs: "auto" takes the stages, of the network that has more of them those that pair up; a
            tap of the same name in both; or pairs ``((student tap, teacher tap), …)``. All layers
            of the student are held against all of the teacher.
        batch_size: the number of samples that q and k read: that of a training step, on each
            process, at least 1. The rows of smaller batches are filled with zeros (ours; the
            authors leave such batches out).
        softness: s, above 0: small is sharp (1, the authors').
    """

    weight: float = 400.0
    pairs: str | tuple[Any, ...] = "auto"
    batch_size: int = 64
    softness: float = 1.0

    card: ClassVar[Card] = Card(
        title="SemCKD",
        paper=Paper(
            authors="Chen, Mei, Zhang, Wang, Wang, Feng, Chen",
            year=2021,
            title="Cross-Layer Distillation with Semantic Calibration",
            venue="AAAI 2021",
            arxiv="2012.03236",
        ),
        equation="mean_(b,l) Σ_j α_(b,l,j) mean (p_lj(F_S^l) - F_T^j)²",
        knowledge=("feature", "relation"),
        location=("intermediate",),
        transfer="squared errors weighed by attention over layers",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="features",
        supervision="no labels",
        separable=False,
        exempt={
            "zero_at_equality": "learned projectors stand between the layers",
            "permutation": "attention reads similarities in the order of the batch",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.batch_size >= 1, "batch_size", "a whole number of at least 1")
        self.require(self.softness > 0, "softness", "a number above 0")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Find the layers; build a projector for each of student against each of teacher."""
        return SemCKDRuntime(self, self.find_pairs(student, teachers, ctx))


class SemCKDRuntime(PairedRuntime):
    """SemCKD at work: projectors, and the two sides of the attention."""

    def __init__(self, method: SemCKD, pairs: Sequence[TapPair]) -> None:
        super().__init__(method, pairs)
        ours = [map_shape(pair.student_shape)[1] for pair in pairs]
        theirs = [map_shape(pair.teacher_shape)[1] for pair in pairs]
        size = method.batch_size
        self.queries = nn.ModuleList(RowEmbedding(size) for _ in pairs)
        self.keys = nn.ModuleList(RowEmbedding(size) for _ in pairs)
        self.projectors = nn.ModuleList(
            nn.ModuleList(make_projection(width, other) for other in theirs) for width in ours
        )

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"semckd": scalar}``.

        Raises:
            MethodError: the batch has more samples than the attention reads.
        """
        method = cast(SemCKD, self.method)
        if len(batch) > method.batch_size:
            raise MethodError(
                f"method.batch_size: expected the number of samples of a step, {len(batch)}, got "
                f"{method.batch_size} (semckd)"
            )
        ours, theirs = self.features(student, teacher)
        gaps = [
            torch.stack(
                [
                    _gaps(project, mine, other)
                    for project, other in zip(cast(nn.ModuleList, row), theirs, strict=True)
                ],
                dim=1,
            )
            for row, mine in zip(self.projectors, ours, strict=True)
        ]
        shares = self.attention(ours, [feature.detach() for feature in theirs])
        weighed = shares * torch.stack(gaps, dim=1)
        return {"semckd": weighed.sum() / max(len(batch) * len(ours), 1)}

    def attention(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        """Return ``[samples, student layers, teacher layers]``, sums of 1 over the last."""
        queries = [embed(f) for embed, f in zip(self.queries, ours, strict=True)]
        keys = [embed(f) for embed, f in zip(self.keys, theirs, strict=True)]
        scores = torch.stack(queries, dim=1) @ torch.stack(keys, dim=2)
        shares: Tensor = (scores / cast(SemCKD, self.method).softness).softmax(dim=-1)
        return shares


class RowEmbedding(nn.Module):
    """From features to a direction for each sample, by its inner products with the whole batch.

    Args:
        size: samples in a batch.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        width = max(size // 4, 1)
        self.size = size
        self.layers = nn.Sequential(
            nn.Linear(size, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )

    def forward(self, feature: Tensor) -> Tensor:
        """Return ``[samples, width]``, of length 1."""
        flat = feature.flatten(1)
        products = pad(flat @ flat.T, (0, self.size - len(flat)))
        return normalize(self.layers(products), dim=1)


def make_projection(channels: int, out_channels: int) -> nn.Sequential:
    """Return three convolutions, 1x1, 3x3 and 1x1, with batch norms and ReLUs between them."""
    middle = 2 * out_channels
    return nn.Sequential(
        nn.Conv2d(channels, middle, 1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, middle, 3, padding=1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, out_channels, 1, bias=False),
    )


def _gaps(project: nn.Module, ours: Tensor, theirs: Tensor) -> Tensor:
    """Return each sample's mean squared error at the common size."""
    mine, other = functional.match_sizes(as_map(ours), as_map(theirs.detach()))
    gaps: Tensor = (project(mine) - other).square().flatten(1).mean(dim=1)
    return gaps
