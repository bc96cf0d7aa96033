"""OFD: the teacher's responses before the ReLU, as far as the ReLU lets one see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data import eval_batches
from limbeck.data.batch import Batch
from limbeck.errors import MethodError
from limbeck.methods.base import Runtime, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.layers import refuse_unlearned, teacher_with_layers
from limbeck.methods.norms import norms_before
from limbeck.methods.paired import PREACTIVATIONS, Paired, PairedRuntime, total
from limbeck.methods.registry import register_method
from limbeck.taps import TapPair
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle

FIT_BATCH = 64


@register_method("ofd")
@dataclass(frozen=True, kw_only=True)
class OFD(Paired):
    r"""Heo et al. (2019): a comprehensive overhaul of feature distillation.

    .. math:: \sum_l 2^{l-L} \; \mathrm{mean}_b \sum d(r(F_S), \max(F_T, m)), \quad
              d(s, t) = \begin{cases} 0 & s \le t \le 0 \\ (s - t)^2 \end{cases}

    Before the ReLU. A negative response of the teacher is worth the margin m of its channel at
    least: the mean that its batch norm lets one expect of negative responses. Of a layer without a
    batch norm before it, that mean is measured on the training data before the first step. The
    connectors r (1x1 convolution and batch norm) are trained with the student and left behind.

    Args:
        weight: weight of the term (0.001, beside a task weight of 1, on CIFAR; the authors use
            0.0001 on ImageNet).
        pairs: "auto" pairs the stages before their ReLU; a tap of the same name in both; or pairs
            ``((student tap, teacher tap), …)`` in order of depth.
        norms: paths of the teacher's batch norms that margins are read from, one a pair; None: the
            last one before each layer that is as wide, shortcuts aside.
    """

    weight: float = 1e-3
    pairs: str | tuple[Any, ...] = "auto"
    norms: tuple[str, ...] | None = None

    automatic: ClassVar[tuple[tuple[str, str], ...]] = ((PREACTIVATIONS, PREACTIVATIONS),)
    reads: ClassVar[tuple[str, ...]] = ("maps",)
    card: ClassVar[Card] = Card(
        title="OFD",
        paper=Paper(
            authors="Heo, Kim, Yun, Park, Kwak, Choi",
            year=2019,
            title="A Comprehensive Overhaul of Feature Distillation",
            venue="ICCV 2019",
            arxiv="1904.01866",
        ),
        equation="Σ_l 2^(l-L) mean_b Σ d(r(F_S), max(F_T, m)), d(s, t) = (s - t)², 0 if s ≤ t ≤ 0",
        knowledge=("feature",),
        location=("intermediate",),
        transfer="partial squared distance",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="features",
        exempt={"zero_at_equality": "a learned connector stands between the layers"},
    )

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the layers, find the margins, build the connectors.

        Raises:
            MethodError: not as many norms as pairs, or one that is none.
        """
        found = self.find_pairs(student, teachers, ctx)
        teacher = teacher_with_layers(self, teachers)
        refuse_unlearned(self.name, teacher, "takes its teacher's margins")
        names: Sequence[str | None] = self.norms or norms_before(teacher, found, ctx)
        if len(names) != len(found):
            raise MethodError(
                f"method.norms: expected one path for each of the {len(found)} pairs, got "
                f"{len(names)} (ofd)"
            )
        margins = [
            None if name is None else _margin_of(teacher.module, name, pair)
            for name, pair in zip(names, found, strict=True)
        ]
        kind = MeasuringOFDRuntime if any(one is None for one in margins) else OFDRuntime
        return kind(self, found, margins)


def _margin_of(network: nn.Module, name: str, pair: TapPair) -> Tensor:
    """Return the margins that a batch norm gives; MethodError where it gives none."""
    norm = dict(network.named_modules()).get(name)
    channels = pair.teacher_shape[1]
    if isinstance(norm, nn.BatchNorm2d) and norm.affine and norm.num_features == channels:
        return functional.batch_norm_margin(norm.weight.cpu(), norm.bias.cpu())
    raise MethodError(
        f"method.norms: expected the path of a batch norm with weights, of "
        f"{channels} channels, in the teacher, got {name!r} (ofd)"
    )


class OFDRuntime(PairedRuntime):
    """OFD at work: margins as buffers, connectors that learn."""

    def __init__(
        self, method: OFD, pairs: Sequence[TapPair], margins: Sequence[Tensor | None]
    ) -> None:
        super().__init__(method, pairs)
        self.connectors = nn.ModuleList(make_connector(pair) for pair in pairs)
        for place, (pair, margin) in enumerate(zip(pairs, margins, strict=True)):
            value = torch.zeros(pair.teacher_shape[1]) if margin is None else margin
            self.register_buffer(f"margin{place}", value.to(torch.get_default_dtype()))

    def margin(self, place: int) -> Tensor:
        """Return the margins of a pair's channels."""
        return self.get_buffer(f"margin{place}")

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"ofd": scalar}``: deeper layers count twice as much as those before them."""
        rows = zip(self.connectors, *self.features(student, teacher), strict=True)
        values = [
            functional.margin_distance(connector(ours), theirs, self.margin(place))
            for place, (connector, ours, theirs) in enumerate(rows)
        ]
        last = len(values) - 1
        return {"ofd": total([value / 2 ** (last - at) for at, value in enumerate(values)])}


class MeasuringOFDRuntime(OFDRuntime):
    """OFD for a teacher with layers that no batch norm precedes."""

    def __init__(
        self, method: OFD, pairs: Sequence[TapPair], margins: Sequence[Tensor | None]
    ) -> None:
        super().__init__(method, pairs, margins)
        self.open = [place for place, margin in enumerate(margins) if margin is None]

    def fit(self, data: DataBundle, ctx: Context) -> None:
        """Measure the mean of each channel's negative responses; 0 where there is none."""
        sums: dict[int, Tensor] = {}
        counts: dict[int, Tensor] = {}
        for batch in eval_batches(data.splits["train"], FIT_BATCH, data.augment_eval):
            taps = self.teacher_taps()
            seen = ctx.teacher(batch.to(ctx.device), self.method.teacher, taps=taps).features
            for place in self.open:
                below = seen[taps[place]].cpu().double().clamp(max=0)
                sums[place] = sums.get(place, torch.zeros(())) + below.sum(dim=(0, 2, 3))
                count = (below < 0).sum(dim=(0, 2, 3))
                counts[place] = counts.get(place, torch.zeros((), dtype=torch.int64)) + count
        for place in self.open:
            self.margin(place).copy_(sums[place] / counts[place].clamp(min=1))


def make_connector(pair: TapPair) -> nn.Sequential:
    """Return a 1x1 convolution and a batch norm to the teacher's width (He's start, fan out)."""
    convolution = nn.Conv2d(pair.student_shape[1], pair.teacher_shape[1], 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(pair.teacher_shape[1]))
