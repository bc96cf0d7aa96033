"""ReviewKD: what the teacher knew early is learned from all that the student knows later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.methods.base import Runtime, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.paired import PREACTIVATIONS, Paired, PairedRuntime, total
from limbeck.methods.registry import register_method
from limbeck.taps import TapPair
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle

WIDEST = 512  # channels that fusions work with, at most


@register_method("reviewkd")
@dataclass(frozen=True, kw_only=True)
class ReviewKD(Paired):
    r"""Chen et al. (2021): knowledge review, with attention-based fusion and context at all sizes.

    .. math:: \sum_l \mathrm{HCL}(\mathrm{ABF}(F_S^l, \dots, F_S^L), F_T^l)

    From the last layer to the first, each of the student's is fused with what came from the deeper
    ones and compared with the teacher's, at full size and average-pooled. The fusions are trained
    with the student and left behind.

    Args:
        weight: weight of the term (5, beside a task weight of 1, as mdistiller runs it for
            ResNet-32x4 to 8x4; others need other values: 1 for ResNet-34 to 18, 8 for ResNet-50 to
            MobileNet on ImageNet).
        pairs: "auto" pairs the student's stages with the teacher's before their ReLU, and the
            vectors that the heads read; a tap of the same name in both; or pairs
            ``((student tap, teacher tap), …)`` in order of depth.
        warmup_epochs: epochs over which the term grows linearly to its full weight: factor
            ``min(epoch / warmup_epochs, 1)``, epochs counted from 1; at least 0, and 0 is none (1
            on ImageNet).
    """

    weight: float = 5.0
    pairs: str | tuple[Any, ...] = "auto"
    warmup_epochs: int = 20

    automatic: ClassVar[tuple[tuple[str, str], ...]] = (
        ("stages", PREACTIVATIONS),
        ("penultimate", "penultimate"),
    )
    reads: ClassVar[tuple[str, ...]] = ("maps", "vectors")
    card: ClassVar[Card] = Card(
        title="ReviewKD",
        paper=Paper(
            authors="Chen, Liu, Zhao, Jia",
            year=2021,
            title="Distilling Knowledge via Knowledge Review",
            venue="CVPR 2021",
            arxiv="2104.09044",
        ),
        equation="Σ_l HCL(ABF(F_S from l on), F_T of l)",
        knowledge=("feature",),
        location=("intermediate",),
        transfer="squared error at several sizes",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="features",
        exempt={"zero_at_equality": "learned fusions stand between the layers"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.warmup_epochs >= 0, "warmup_epochs", "a whole number of at least 0")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the layers; build a fusion for each."""
        return ReviewKDRuntime(self, self.find_pairs(student, teachers, ctx))


class ReviewKDRuntime(PairedRuntime):
    """ReviewKD at work: a fusion for each layer, from the first to the last."""

    def __init__(self, method: ReviewKD, pairs: Sequence[TapPair]) -> None:
        super().__init__(method, pairs)
        middle = min(WIDEST, pairs[-1].student_shape[1])
        last = len(pairs) - 1
        self.fusions = nn.ModuleList(
            Fusion(pair.student_shape[1], middle, pair.teacher_shape[1], fuses=place < last)
            for place, pair in enumerate(pairs)
        )

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"reviewkd": scalar}``, the warm-up included."""
        ours, theirs = ([_spread(one) for one in side] for side in self.features(student, teacher))
        values, deeper = [], None
        for fusion, mine, other in reversed(list(zip(self.fusions, ours, theirs, strict=True))):
            said, deeper = fusion(mine, deeper, tuple(other.shape[2:]))
            values.append(functional.hierarchical_context(said, other))
        epochs = cast(ReviewKD, self.method).warmup_epochs
        warm = min((ctx.epoch + 1) / epochs, 1.0) if epochs else 1.0
        return {"reviewkd": warm * total(values)}


class Fusion(nn.Module):
    """Attention-based fusion of a layer with what came from the deeper ones.

    Args:
        channels: of the student's layer.
        middle: channels that are fused and handed on.
        out_channels: of the teacher's layer.
        fuses: whether there is anything deeper.
    """

    def __init__(self, channels: int, middle: int, out_channels: int, *, fuses: bool) -> None:
        super().__init__()
        self.enter = _convolution(channels, middle, 1)
        self.leave = _convolution(middle, out_channels, 3)
        self.attend = nn.Conv2d(2 * middle, 2, 1) if fuses else None

    def forward(
        self, feature: Tensor, deeper: Tensor | None, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return what is compared with the teacher's map of ``size``, and what is handed on."""
        fused = self.enter(feature)
        if self.attend is not None and deeper is not None:
            deeper = _resize(deeper, tuple(fused.shape[2:]))
            shares = self.attend(torch.cat([fused, deeper], dim=1)).sigmoid()
            fused = fused * shares[:, :1] + deeper * shares[:, 1:]
        fused = _resize(fused, size)
        return self.leave(fused), fused


def _convolution(channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    layer = nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_uniform_(layer.weight, a=1)
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels))


def _resize(feature: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(feature.shape[2:]) == size:
        return feature
    return nn.functional.interpolate(feature, size, mode="nearest")


def _spread(feature: Tensor) -> Tensor:
    """Return a vector as a map of one position, maps as they are."""
    return feature[..., None, None] if feature.ndim == 2 else feature
