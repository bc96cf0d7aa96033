"""LAD: each layer of the student learns from all of the teacher's up to its own depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.data.tokens import token_mask
from limbeck.errors import MethodError, ShapeError
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.layers import all_layers
from limbeck.methods.paired import as_map, check_forms, map_shape
from limbeck.methods.registry import register_method
from limbeck.taps import TapPair
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle

HOW = "student_layers: …, teacher_layers: …"


@register_method("lad")
@dataclass(frozen=True, kw_only=True)
class LAD(Method):
    r"""Lin, Chen and Kao (2023): layer-wise adaptive distillation, with gates between the layers.

    .. math:: \frac{1}{L_S} \sum_i \mathrm{mean}\,( H_S^i - A^{t(i)} )^2, \quad
              A^l = \mathrm{LN}( g_l H_T^l + (1 - g_l) A^{l-1} ), \;
              g_l = \sigma( W_l A^{l-1} + b_l )

    A student with fewer layers than its teacher usually learns from every second or third one.
    Here the layers between are aggregated into them by gates, which are trained with the student
    and left behind. Beside KD, as in the authors' code: ``KD(temperature=10, weight=0.5) + LAD()``
    with a task weight of 0.5.

    Made for encoders of text; of other networks whose layers differ in width or size, the
    aggregate is average-pooled and passed through a learned 1x1 convolution on its way to the
    next layer, which is ours, as is the one that widens a narrower student. Of tokens, padding does
    not count.

    Args:
        weight: weight of the term (1000; the authors' scripts have 500 or 1000, with AdamW at rates
            of 1e-4 to 7e-4; with plain SGD much less).
        student_layers: the student's layers in order of depth: a role, a path or a glob.
        teacher_layers: likewise the teacher's, at least as many.
        norm: "position" normalises each position's entries; "sequence" all entries of a sample at
            once, as the authors' code does, padding included.
    """

    weight: float = 1000.0
    student_layers: str = "stages"
    teacher_layers: str = "stages"
    norm: Literal["position", "sequence"] = "position"

    card: ClassVar[Card] = Card(
        title="LAD",
        paper=Paper(
            authors="Lin, Chen, Kao",
            year=2023,
            title="LAD: Layer-Wise Adaptive Distillation for BERT Model Compression",
            venue="Sensors 23(3):1483",
        ),
        equation="mean_i mean (H_S - A_t(i))², A_l = LN(g H_T,l + (1-g) A_(l-1)), g = σ(W A_(l-1))",
        knowledge=("feature",),
        location=("intermediate",),
        transfer="squared error",
        tasks=("classification", "multilabel", "regression"),
        task_weight=0.5,
        min_classes=1,
        teacher_access="features",
        exempt={"zero_at_equality": "learned gates make what the layers are compared with"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.norm in ("position", "sequence")
        self.require(known, "norm", "position or sequence")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Find the layers of both; build the gates.

        Raises:
            ShapeError: the student has more layers than the teacher, or other forms of feature.
        """
        taps = self.student_layers, self.teacher_layers
        ours, theirs = all_layers(self, taps, student, teachers, ctx)
        if len(ours) > len(theirs):
            raise ShapeError(
                f"method lad: the student has {len(ours)} layers, the teacher {len(theirs)}; name "
                f"as many or fewer of the student ({HOW})"
            )
        for mine, other in zip(ours, _chosen(theirs, len(ours)), strict=True):
            pair = TapPair(mine.student, other.student, mine.student_shape, other.student_shape)
            check_forms(self.name, ("maps", "tokens"), pair, HOW)
        return LADRuntime(self, ours, theirs)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Refuse: the gates are the runtime's."""
        raise MethodError("method lad: has learned parts, use it through a Distiller")


class LADRuntime(Runtime):
    """LAD at work: a gate before each of the teacher's layers but the first."""

    def __init__(self, method: LAD, ours: Sequence[TapPair], theirs: Sequence[TapPair]) -> None:
        super().__init__(method)
        self.ours, self.theirs = [one.student for one in ours], [one.student for one in theirs]
        shapes = [map_shape(one.student_shape) for one in theirs]
        self.targets = [self.theirs.index(one.student) for one in _chosen(theirs, len(ours))]
        self.gates = nn.ModuleList(
            Gate(before[1], after[1], method.norm) for before, after in pairwise(shapes)
        )
        widths = [map_shape(one.student_shape)[1] for one in ours]
        self.projectors = nn.ModuleList(
            _widened(width, shapes[target][1])
            for width, target in zip(widths, self.targets, strict=True)
        )

    def student_taps(self) -> tuple[str, ...]:
        """The student's layers, in order."""
        return tuple(self.ours)

    def teacher_taps(self) -> tuple[str, ...]:
        """All of the teacher's layers, in order."""
        return tuple(self.theirs)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"lad": scalar}``, the mean over the student's layers."""
        layers = [as_map(teacher.features[tap].detach()) for tap in self.theirs]
        aggregates = layers[:1]
        for gate, layer in zip(self.gates, layers[1:], strict=True):
            aggregates.append(gate(aggregates[-1], layer))
        values = []
        for tap, projector, target in zip(self.ours, self.projectors, self.targets, strict=True):
            kept = token_mask(batch.inputs, teacher.features[self.theirs[target]])
            ours = projector(as_map(student.features[tap]))
            ours, theirs = functional.match_sizes(ours, aggregates[target])
            if kept is not None:
                ours, theirs = (one.squeeze(-1).mT for one in (ours, theirs))
            values.append(functional.aggregate_distance(ours, theirs, mask=kept))
        return {"lad": torch.stack(values).mean()}


class Gate(nn.Module):
    """Takes a layer into the aggregate of those before it, as much as each entry wants.

    Args:
        before: channels of the aggregate so far.
        channels: of the layer, and of the result.
        norm: what is normalised at once: a "position", or the whole "sequence".
    """

    def __init__(self, before: int, channels: int, norm: str) -> None:
        super().__init__()
        self.carry = _widened(before, channels)
        self.gate = nn.Conv2d(channels, channels, 1)
        nn.init.xavier_uniform_(self.gate.weight)
        self.norm = nn.GroupNorm(1, channels) if norm == "sequence" else PositionNorm(channels)

    def forward(self, before: Tensor, layer: Tensor) -> Tensor:
        """Return the aggregate with the layer, ``[batch, channels, height, width]``."""
        if before.shape[2:] != layer.shape[2:]:
            size = (layer.shape[2], layer.shape[3])
            before = functional.average_pool(before, size=size)
        before = self.carry(before)
        aggregate: Tensor = self.norm(functional.highway(before, layer, self.gate(before)))
        return aggregate


class PositionNorm(nn.LayerNorm):
    """Layer norm over the channels of each position of a map."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return ``[batch, channels, height, width]``."""
        return super().forward(maps.movedim(1, -1)).movedim(-1, 1)


def _widened(channels: int, wanted: int) -> nn.Module:
    return nn.Identity() if channels == wanted else nn.Conv2d(channels, wanted, 1, bias=False)


def _chosen(layers: Sequence[TapPair], count: int) -> list[TapPair]:
    """Return ``count`` of the layers, evenly spaced, the last included."""
    return [layers[(place + 1) * len(layers) // count - 1] for place in range(count)]
