"""Deep mutual learning: students that learn together, each from all others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Cost, Paper
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("dml")
@dataclass(frozen=True, kw_only=True)
class DML(Method):
    r"""Zhang, Xiang, Hospedales and Lu (2018): divergence from every peer, at temperature 1.

    .. math:: \sum_{j \ne i} \mathrm{KL}(p_j \,\|\, p_i) \quad \text{for student } i

    The student is a cohort; its members are the teachers called "peers". A peer's output is fixed
    for the others, so that one sum over all members is each member's own step.

    Args:
        weight: weight of the divergences (1).
        teacher: the teacher that speaks for the other members ("peers").
        average: mean over the peers in place of the sum that the authors' code takes.
    """

    teacher: str | None = "peers"
    average: bool = False

    card: ClassVar[Card] = Card(
        title="DML",
        paper=Paper(
            authors="Zhang, Xiang, Hospedales, Lu",
            year=2018,
            title="Deep Mutual Learning",
            venue="CVPR 2018",
            arxiv="1706.00384",
        ),
        equation="Σ_{j≠i} KL(softmax(z_j) ‖ softmax(z_i))",
        teachers="the other students",
        merge="sum of divergences",
        students="cohort",
        transfer="KL divergence",
        timing="online",
        cost=Cost(teacher_forwards=0.0, student_steps=1.0),
    )

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Refuse a student alone, which has no peers."""
        if ctx.num_members < 2:
            raise MethodError(
                "method dml: needs at least two students that learn together, got 1; "
                "give a list of students"
            )
        return super().prepare(student, teachers, data, ctx)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"dml": scalar}`` for one member; ``teacher.members`` are its peers."""
        peers = [peer.logits for peer in teacher.members or (teacher,)]
        return {"dml": functional.dml(student.logits, peers, average=self.average)}
