"""Block-KD: the student's first blocks must serve the teacher's last ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch, first_tensor
from limbeck.errors import MethodError
from limbeck.methods.base import Runtime, Terms
from limbeck.methods.card import Card, Cost, Paper
from limbeck.methods.context import Context
from limbeck.methods.layers import teacher_with_layers
from limbeck.methods.paired import Paired, PairedRuntime
from limbeck.methods.registry import register_method
from limbeck.models.calling import call_model
from limbeck.taps import TapPair, make_projector, run_from
from limbeck.taps.outputs import Outputs, as_outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("blockkd")
@dataclass(frozen=True, kw_only=True)
class BlockKD(Paired):
    r"""Yu et al. (2024), after the abstract: block-wise logit distillation over stepping stones.

    .. math:: \sum_{i=1}^{n} 2^{\,i-n} \; T^2 \,
              \mathrm{KL}( \sigma(z_T / T) \,\|\, \sigma(z_{N_i} / T) )

    :math:`N_i` is the student up to its i-th block, a learned connector, and the teacher from there
    on, frozen; :math:`N_n` is the student itself. What the teacher's last blocks make of a feature
    says how good it is, so that features are aligned by logits alone. The stones are left behind.

    The abstract, and third parties' accounts of the objective, say this much; connectors and
    defaults are ours. Where there is one pair of blocks alone, it is plain KD.

    Helps where layers of student and teacher differ in form more than in what they mean. Costs a
    pass through the teacher for every stone.

    Args:
        weight: weight of the term (0.9, KD's, beside a task weight of 0.1).
        temperature: softening of all outputs, above 0 (4, KD's).
        decay: how much less each stone counts than the next, above 0 and at most 1 (a half).
        pairs: "auto" pairs the stages, the last of which are the whole networks; a tap of the same
            name in both; or pairs ``((student tap, teacher tap), …)`` of blocks in order of depth,
            at each of which a stone changes over.
        connector: what a student's layer goes through to the teacher's next block: "regressor"
            (convolution, batch norm and ReLU, for maps), "auto" (a convolution or linear map where
            widths differ) or "identity" (equal widths alone).
    """

    weight: float = 0.9
    temperature: float = 4.0
    decay: float = 0.5
    pairs: str | tuple[Any, ...] = "auto"
    connector: Literal["auto", "regressor", "identity"] = "regressor"

    reads: ClassVar[tuple[str, ...]] = ("maps", "tokens", "vectors")
    card: ClassVar[Card] = Card(
        title="Block-KD",
        paper=Paper(
            authors="Yu, Zhang, Chen, Wang, Liu, Tan, Li",
            year=2024,
            title="Decoupling Dark Knowledge via Block-wise Logit Distillation for Feature-level "
            "Alignment",
            venue="IEEE TAI 2024",
            arxiv="2411.01547",
        ),
        equation="Σ_i 2^(i-n) T² KL(softmax(z_T/T) ‖ softmax(z_Ni/T)), N_i: student, then teacher",
        faithful="after the abstract",
        knowledge=("response", "feature"),
        location=("output", "intermediate"),
        transfer="KL divergence",
        tasks=("classification", "multilabel", "regression"),
        task_weight=0.1,
        teacher_access="module",
        cost=Cost(teacher_forwards=3.0, student_steps=1.0),
        exempt={"zero_at_equality": "learned connectors stand between the networks"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.temperature > 0, "temperature", "a number above 0")
        self.require(0 < self.decay <= 1, "decay", "a number above 0 and at most 1")
        kinds = ("auto", "regressor", "identity")
        self.require(self.connector in kinds, "connector", "auto, regressor or identity")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the blocks; build a connector for each stone.

        Raises:
            ShapeError: no connector fits a pair.
        """
        pairs = self.find_pairs(student, teachers, ctx)
        if self.pairs == "auto":
            pairs = pairs[:-1]
        return BlockKDRuntime(self, pairs, teacher_with_layers(self, teachers))

    def compare_logits(self, student: Tensor, teacher: Tensor, task: str) -> Tensor:
        """Return the divergence of one network from the teacher."""
        if task == "regression":
            return functional.kd_regression(student, teacher)
        form = functional.kd_multilabel if task == "multilabel" else functional.kd
        return form(student, teacher, temperature=self.temperature)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Refuse: the stones are the runtime's."""
        raise MethodError("method blockkd: has learned parts, use it through a Distiller")


class BlockKDRuntime(PairedRuntime):
    """Block-KD at work: a connector for each stone; the teacher stays outside of its state."""

    def __init__(self, method: BlockKD, pairs: Sequence[TapPair], teacher: Any) -> None:
        super().__init__(method, pairs)
        self.__dict__["teacher"] = teacher
        self.connectors = nn.ModuleList(_connector(method.connector, pair) for pair in pairs)

    def teacher_taps(self) -> tuple[str, ...]:
        """None: features enter the teacher, none are read."""
        return ()

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"blockkd": student's divergence, "stones": those of the stones, weighed}``."""
        method = cast(BlockKD, self.method)
        theirs = teacher.logits.detach()
        terms = {"blockkd": method.compare_logits(student.logits, theirs, ctx.task)}
        stones: list[Tensor] = []
        for place, (pair, connector) in enumerate(zip(self.pairs, self.connectors, strict=True)):
            entering = connector(student.features[pair.student])
            said = self._go_on(pair.teacher, entering, batch)
            share = method.decay ** (len(self.pairs) - place)
            stones.append(share * method.compare_logits(said, theirs, ctx.task))
        if stones:
            terms["stones"] = torch.stack(stones).sum()
        return terms

    def _go_on(self, tap: str, feature: Tensor, batch: Batch) -> Tensor:
        """Return what the teacher says from a tap on, in its own precision."""
        teacher = self.__dict__["teacher"]
        read = batch.replace(inputs=teacher.inputs_of(batch), teacher_inputs=None)

        def call(model: nn.Module) -> Any:
            if teacher.forward is not None:
                return teacher.forward(model, read)
            return call_model(model, read.inputs)

        with torch.autocast(first_tensor(read.inputs).device.type, enabled=False):
            logits = as_outputs(run_from(teacher.module, tap, feature, call)).logits
            return cast(Tensor, teacher.scaled(logits))


def _connector(kind: str, pair: TapPair) -> nn.Module:
    """Return the map from a student's block to where the teacher goes on: 1x1 where sizes agree."""
    ours, theirs = pair.student_shape, pair.teacher_shape
    if kind == "regressor" and (len(ours) != 4 or ours[2:] == theirs[2:]):
        maps = len(ours) == 4
        return make_projector("auto", ours, theirs, norm=maps, activation=maps, names=pair.names)
    return make_projector(kind, ours, theirs, names=pair.names)
