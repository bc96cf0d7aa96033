"""FAM-KD: the student's layers, filtered in the frequency domain, should be the teacher's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError
from limbeck.methods.base import Runtime, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.local_attention import LocalAttention
from limbeck.methods.paired import Paired, PairedRuntime, total
from limbeck.methods.registry import register_method
from limbeck.taps import TapPair
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle

LARGEST = 2**26
"""Complex weights that one layer's filters may have: 512 MB in single precision."""


@register_method("famkd")
@dataclass(frozen=True, kw_only=True)
class FAMKD(Paired):
    r"""Pham et al. (2024): frequency attention, with the review of deeper layers.

    .. math:: \sum_l \mathrm{mean}\,( \mathrm{FAM}(X_l) - F_T^l )^2, \quad
              \mathrm{FAM}(x) = \mathrm{ReLU}\,\mathrm{BN}\,( r_1 \, \mathrm{Re}\,
              \mathcal F^{-1}[ H ( W \odot \mathcal F x ) ] + r_2 \, K x )

    W weighs every frequency of every pair of channels, so that each position of the teacher's map
    may draw on all positions of the student's; K is a 1x1 convolution. X is the student's layer,
    with what came from the deeper ones mixed in by local attention. All of it is trained with
    the student and left behind.

    Helps where student and teacher answer to the same image at the same scale. W has as many
    complex numbers as there are pairs of channels times positions: for large maps, name small ones.

    Args:
        weight: weight of the term (1, beside a task weight of 1; the authors' code has 0.8 for
            ResNet-56 to 20, and 5 for wide ResNets).
        pairs: "auto" pairs the stages, and the vectors that the heads read; a tap of the same name
            in both; or pairs ``((student tap, teacher tap), …)`` in order of depth.
        low_cut: share of the frequencies, lowest first, that H takes away, in [0, 1). With 0.1 it
            takes none from maps of fewer than 20 positions a side.
        review: whether deeper layers are mixed in; without, each layer stands alone.
        warmup_epochs: epochs over which the term grows linearly to its full weight: factor
            ``min(epoch / warmup_epochs, 1)``, epochs counted from 1; at least 0, and 0 is none (1
            on ImageNet).
    """

    weight: float = 1.0
    pairs: str | tuple[Any, ...] = "auto"
    low_cut: float = 0.1
    review: bool = True
    warmup_epochs: int = 20

    automatic: ClassVar[tuple[tuple[str, str], ...]] = (
        ("stages", "stages"),
        ("penultimate", "penultimate"),
    )
    reads: ClassVar[tuple[str, ...]] = ("maps", "vectors")
    card: ClassVar[Card] = Card(
        title="FAM-KD",
        paper=Paper(
            authors="Pham, Nguyen, Le, Phung, Carneiro, Do",
            year=2024,
            title="Frequency Attention for Knowledge Distillation",
            venue="WACV 2024",
        ),
        equation="Σ_l mean (FAM(X_l) - F_T)², FAM: a filter over frequencies + a 1x1 convolution",
        knowledge=("feature",),
        location=("intermediate",),
        transfer="squared error",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="features",
        exempt={"zero_at_equality": "learned filters stand between the layers"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.low_cut < 1, "low_cut", "a number in [0, 1)")
        self.require(self.warmup_epochs >= 0, "warmup_epochs", "a whole number of at least 0")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the layers; build a filter for each.

        Raises:
            MethodError: filters of a layer would be too large.
        """
        pairs = self.find_pairs(student, teachers, ctx)
        for pair in pairs:
            height, width = _size(pair.teacher_shape)
            count = pair.student_shape[1] * pair.teacher_shape[1] * height * width
            if count > LARGEST:
                raise MethodError(
                    f"method famkd: filters from student tap {pair.student!r} "
                    f"{list(pair.student_shape)} to teacher tap {pair.teacher!r} "
                    f"{list(pair.teacher_shape)} would have {count:,} complex weights, at most "
                    f"{LARGEST:,}; name smaller layers (pairs: [[student tap, teacher tap]])"
                )
        return FAMKDRuntime(self, pairs)


class FAMKDRuntime(PairedRuntime):
    """FAM-KD at work: filters for each layer, from the first to the last."""

    def __init__(self, method: FAMKD, pairs: Sequence[TapPair]) -> None:
        super().__init__(method, pairs)
        widths = [pair.student_shape[1] for pair in pairs]
        deeper = [*widths[1:], 0] if method.review else [0] * len(pairs)
        self.layers = nn.ModuleList(
            Layer(width, below, pair.teacher_shape, method.low_cut)
            for width, below, pair in zip(widths, deeper, pairs, strict=True)
        )

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"famkd": scalar}``, the warm-up included."""
        ours, theirs = ([_spread(one) for one in side] for side in self.features(student, teacher))
        values, deeper = [], None
        for layer, mine, other in reversed(list(zip(self.layers, ours, theirs, strict=True))):
            said, deeper = layer(mine, deeper, tuple(other.shape[2:]))
            values.append(functional.hint(said, other))
        epochs = cast(FAMKD, self.method).warmup_epochs
        warm = min((ctx.epoch + 1) / epochs, 1.0) if epochs else 1.0
        return {"famkd": warm * total(values)}


class Layer(nn.Module):
    """A student's layer on its way to the teacher's: deeper ones mixed in, then filtered.

    Args:
        channels: of the student's layer.
        deeper: channels of what came from the layer behind it; 0: nothing did.
        teacher_shape: shape of the teacher's layer.
        low_cut: share of the frequencies that are taken away.
    """

    def __init__(
        self, channels: int, deeper: int, teacher_shape: Sequence[int], low_cut: float
    ) -> None:
        super().__init__()
        out_channels, size = teacher_shape[1], _size(teacher_shape)
        self.enter = _entry(deeper, channels) if deeper else None
        self.attend = LocalAttention(channels) if deeper else None
        self.attention = FrequencyAttention(channels, out_channels, size, low_cut)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(
        self, feature: Tensor, deeper: Tensor | None, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return what is compared with the teacher's map of ``size``, and what is handed on."""
        if self.attend is not None and self.enter is not None and deeper is not None:
            feature = self.attend(feature, _resize(self.enter(deeper), tuple(feature.shape[2:])))
        feature = _resize(feature, size)
        return self.norm(self.attention(feature)).relu(), feature


class FrequencyAttention(nn.Module):
    """A filter over the frequencies of maps of one size, beside a 1x1 convolution, both weighed.

    Args:
        channels: of the map.
        out_channels: of the result.
        size: height and width of the maps.
        low_cut: share of the frequencies that are taken away.
    """

    def __init__(
        self, channels: int, out_channels: int, size: tuple[int, int], low_cut: float
    ) -> None:
        super().__init__()
        self.low_cut = low_cut
        shape = (channels, out_channels, *size, 2)  # real and imaginary parts
        self.filters = nn.Parameter(torch.rand(shape) / (channels * out_channels))
        self.convolution = nn.Conv2d(channels, out_channels, 1)
        self.shares = nn.Parameter(torch.full((2,), 0.5))

    def forward(self, feature: Tensor) -> Tensor:
        """Return ``[batch, out_channels, height, width]``."""
        filters = torch.view_as_complex(self.filters)
        filtered = functional.frequency_attention(feature, filters, low_cut=self.low_cut)
        answer: Tensor = self.shares[0] * filtered + self.shares[1] * self.convolution(feature)
        return answer


def _entry(channels: int, out_channels: int) -> nn.Module:
    if channels == out_channels:
        return nn.Identity()
    layer = nn.Conv2d(channels, out_channels, 1, bias=False)
    nn.init.kaiming_uniform_(layer.weight, a=1)
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels), nn.ReLU())


def _resize(feature: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(feature.shape[2:]) == size:
        return feature
    return nn.functional.interpolate(feature, size, mode="nearest")


def _size(shape: Sequence[int]) -> tuple[int, int]:
    """Height and width of a map; a vector is a map of one position."""
    return (shape[2], shape[3]) if len(shape) == 4 else (1, 1)


def _spread(feature: Tensor) -> Tensor:
    """Return a vector as a map of one position, maps as they are."""
    return feature[..., None, None] if feature.ndim == 2 else feature
