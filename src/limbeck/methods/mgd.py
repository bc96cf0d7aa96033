"""MGD: from part of the student's layer, the whole of the teacher's should be generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

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

DRAWN = "what is blanked is drawn for each place in a batch"


@register_method("mgd")
@dataclass(frozen=True, kw_only=True)
class MGD(Paired):
    r"""Yang et al. (2022): masked generative distillation.

    .. math:: \frac{1}{B} \sum_b \| g( M_b \odot a(F_S) ) - F_T \|_2^2

    M blanks each channel of a sample with probability ``ratio``, anew at every step; the generator
    g (two 3x3 convolutions with a ReLU between them) must make the teacher's map from what is
    left. So the student is not asked to copy the teacher, but to know enough of it. The alignment a
    is a 1x1 convolution where the widths differ, and nothing where they agree. Both are trained
    with the student and left behind.

    Maps of different sizes are average-pooled to the smaller height and width of both (the
    authors' agree). Tokens are a map of one column: the generator sees neighbours in a row.

    Args:
        weight: weight of the term (0.00007, beside a task weight of 1, for the last maps of
            ImageNet networks, 7x7 positions; the squares are summed, so that fewer positions and
            channels want more: the authors' code for CIFAR-100 has 0.0012).
        pairs: "auto" takes the last stages; a tap of the same name in both; or pairs
            ``((student tap, teacher tap), …)``.
        ratio: share that is blanked, in [0, 1) (0.15; with 0 nothing is).
        mask: what is blanked together: "channels", as the authors classify, or "positions", as the
            code does for dense tasks.
    """

    weight: float = 0.00007
    pairs: str | tuple[Any, ...] = "auto"
    ratio: float = 0.15
    mask: Literal["channels", "positions"] = "channels"

    automatic: ClassVar[tuple[tuple[str, str], ...]] = (("stages[-1]", "stages[-1]"),)
    card: ClassVar[Card] = Card(
        title="MGD",
        paper=Paper(
            authors="Yang, Li, Shao, Shi, Yuan, Yuan",
            year=2022,
            title="Masked Generative Distillation",
            venue="ECCV 2022",
            arxiv="2205.01529",
        ),
        equation="mean_b ‖g(M a(F_S)) - F_T‖², M blanks channels at random",
        knowledge=("feature",),
        location=("intermediate",),
        transfer="squared error of a map generated from a masked one",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="features",
        supervision="no labels",
        exempt={
            "zero_at_equality": "a learned generator stands between the layers",
            "permutation": DRAWN,
            "halves": DRAWN,
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.ratio < 1, "ratio", "a share in [0, 1)")
        self.require(self.mask in ("channels", "positions"), "mask", "channels or positions")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the layers; build an alignment and a generator for each pair."""
        return MGDRuntime(self, self.find_pairs(student, teachers, ctx))


class MGDRuntime(PairedRuntime):
    """MGD at work: alignments and generators, trained with the student."""

    def __init__(self, method: MGD, pairs: Sequence[TapPair]) -> None:
        super().__init__(method, pairs)
        widths = [
            (map_shape(pair.student_shape)[1], map_shape(pair.teacher_shape)[1]) for pair in pairs
        ]
        self.alignments = nn.ModuleList(
            nn.Identity() if ours == theirs else nn.Conv2d(ours, theirs, 1)
            for ours, theirs in widths
        )
        self.generators = nn.ModuleList(make_generator(theirs) for _, theirs in widths)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"mgd": scalar}``, the sum over the pairs."""
        method = cast(MGD, self.method)
        rows = zip(self.alignments, self.generators, *self.features(student, teacher), strict=True)
        values = []
        for align, generate, ours, theirs in rows:
            mine, other = functional.match_sizes(as_map(ours), as_map(theirs.detach()))
            aligned = align(mine)
            kept = keep(aligned, method.ratio, method.mask, ctx.generator)
            # the sum of squares of a sample is twice its half
            made = generate(aligned * kept)
            values.append(2 * functional.hint(made, other, normaliser="half_sum"))
        return {"mgd": total(values)}


def make_generator(channels: int) -> nn.Sequential:
    """Return two 3x3 convolutions with a ReLU between them."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
    )


def keep(feature: Tensor, ratio: float, mask: str, generator: torch.Generator) -> Tensor:
    """Return what is 0 at a share ``ratio`` of a map's channels or positions, and 1 elsewhere."""
    batch, channels, height, width = feature.shape
    shape = (batch, channels, 1, 1) if mask == "channels" else (batch, 1, height, width)
    drawn = torch.rand(shape, generator=generator, dtype=torch.float32, device=generator.device)
    return (drawn >= ratio).to(feature)
