"""OFA-KD: layers of any network are led to logits of their own, where any teacher can speak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from torch import nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError, TapError
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.exits import make_exit
from limbeck.methods.layers import teacher_with_layers
from limbeck.methods.paired import total
from limbeck.methods.registry import register_method
from limbeck.methods.supervised import labels_of
from limbeck.models.calling import call_model
from limbeck.taps import TapPair, head_of, pair_taps
from limbeck.taps.outputs import Outputs
from limbeck.taps.pairing import first_member

if TYPE_CHECKING:
    from limbeck.data import DataBundle

MOST_EXITS = 4


@register_method("ofa")
@dataclass(frozen=True, kw_only=True)
class OFA(Method):
    r"""Hao et al. (2023): one for all, with exits from the student's stages and surer targets.

    .. math:: \ell(z_S) + w \sum_i \ell(e_i(F_S^i)), \quad
              \ell(z) = - \sum_k t_k \log \mathrm{softmax}(z)_k, \quad
              t_k = p_k^\gamma, \; t_y = (1 + p_y)^\gamma - 1

    p is the teacher's answer. No layer of the teacher is looked at: an exit e carries a layer of
    the student to logits, whatever kind of network it is. Exits from maps are separable
    convolutions, from tokens merged patches and transformer blocks, from vectors a linear layer
    (ours). They are trained with the student and left behind.

    Helps where student and teacher are of different kinds, and a teacher may be known by its
    outputs alone. γ above 1 makes the target surer of the label, below 1 less so.

    Args:
        weight: weight of all terms (1, beside a task weight of 1).
        gamma: γ, above 0, one number, or one for each exit and a last one for the student's own
            logits (1; the authors' command for DeiT-T to ResNet-18 on ImageNet has 1.5).
        exits: "auto" takes the stages, of more than four those at the quarters of the depth (the
            authors split every network into four); or a tap of the student, or several.
        exits_weight: w, of the exits beside the student's logits, at least 0 (1).
        temperature: T of both sides, above 0; there is no factor of T².
    """

    gamma: float | tuple[float, ...] = 1.0
    exits: str | tuple[str, ...] = "auto"
    exits_weight: float = 1.0
    temperature: float = 1.0

    card: ClassVar[Card] = Card(
        title="OFA-KD",
        paper=Paper(
            authors="Hao, Guo, Han, Tang, Hu, Wang, Xu",
            year=2023,
            title="One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge "
            "Distillation",
            venue="NeurIPS 2023",
            arxiv="2310.19444",
        ),
        equation="ℓ(z_S) + w Σ_i ℓ(e_i(F_S^i)), ℓ = -Σ_k t_k log q_k, t_k = p_k^γ, "
        "t_y = (1 + p_y)^γ - 1",
        location=("output", "intermediate"),
        transfer="cross-entropy with targets made surer of the label",
        supervision="labels",
        exempt={"zero_at_equality": "cross-entropies, at exits that learn too"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        several = isinstance(self.gamma, tuple)
        values = cast("tuple[float, ...]", self.gamma if several else (self.gamma,))
        positive = len(values) > 0 and all(value > 0 for value in values)
        self.require(positive, "gamma", "a number above 0, or one for each exit and the output")
        self.require(self.exits_weight >= 0, "exits_weight", "a number of at least 0")
        self.require(self.temperature > 0, "temperature", "a number above 0")
        self.require(bool(self.exits), "exits", "'auto', or at least one tap of the student")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Find the student's layers; build an exit from each.

        Raises:
            TapError: the student has no such layers.
            MethodError: another number of γ than there are exits, and one.
        """
        layers = self._find_layers(student, ctx)
        if isinstance(self.gamma, tuple) and len(self.gamma) != len(layers) + 1:
            raise MethodError(
                f"method.gamma: expected one number, or {len(layers) + 1} (for {len(layers)} "
                f"exits and the output), got {len(self.gamma)} (ofa)"
            )
        teacher = teacher_with_layers(self, teachers)
        return OFARuntime(self, layers, _width_of(teacher.module), ctx.num_outputs)

    def _find_layers(self, student: nn.Module, ctx: Context) -> list[TapPair]:
        """Return the student's layers, each paired with itself."""
        assert ctx.example is not None
        example: Any = ctx.example if ctx.forward else ctx.example.inputs
        call = ctx.forward or call_model
        wanted: Any = "stages" if self.exits == "auto" else self.exits
        try:
            found = pair_taps(
                student,
                student,
                wanted,
                student_example=example,
                student_call=call,
                teacher_call=call,
            )
        except TapError as error:
            raise TapError(f"method ofa: {error}; name layers (exits: [student tap, …])") from error
        count = len(found)
        if self.exits != "auto" or count <= MOST_EXITS:
            return found
        return [found[round((i + 1) * count / MOST_EXITS) - 1] for i in range(MOST_EXITS)]


class OFARuntime(Runtime):
    """OFA-KD at work: the exits, from the first layer to the last."""

    def __init__(
        self, method: OFA, layers: Sequence[TapPair], teacher_width: int, outputs: int
    ) -> None:
        super().__init__(method)
        self.taps = tuple(layer.student for layer in layers)
        shapes = [layer.student_shape for layer in layers]
        ours = shapes[-1][1] if len(shapes[-1]) == 4 else shapes[-1][-1]
        width = max(ours, teacher_width)
        self.exits = nn.ModuleList(
            make_exit(shape, len(shapes) - 1 - place, width, ours, outputs)
            for place, shape in enumerate(shapes)
        )

    def student_taps(self) -> tuple[str, ...]:
        """The layers that have exits."""
        return self.taps

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"ofa": scalar, "ofa_exits": scalar}``."""
        method = cast(OFA, self.method)
        labels = labels_of(batch, "ofa")
        gammas = method.gamma
        if not isinstance(gammas, tuple):
            gammas = (gammas,) * (len(self.taps) + 1)
        said = [
            exit_(student.features[tap]) for exit_, tap in zip(self.exits, self.taps, strict=True)
        ]
        values = [
            functional.ofa(
                logits, teacher.logits, labels, gamma=gamma, temperature=method.temperature
            )
            for logits, gamma in zip([*said, student.logits], gammas, strict=True)
        ]
        return {"ofa": values[-1], "ofa_exits": method.exits_weight * total(values[:-1])}


def _width_of(teacher: nn.Module | None) -> int:
    """Return how many entries a teacher's classifier reads; 0 where that cannot be seen."""
    try:
        head = None if teacher is None else head_of(first_member(teacher))
    except TapError:
        return 0
    return int(getattr(head, "in_features", 0))
