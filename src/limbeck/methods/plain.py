"""Plain training: no teacher, the floor of every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from limbeck.data.batch import Batch
from limbeck.methods.base import Method, Terms
from limbeck.methods.card import Card, Cost
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.taps.outputs import Outputs


@register_method("plain")
@dataclass(frozen=True, kw_only=True)
class Plain(Method):
    """Train on the labels alone. It has no knowledge terms."""

    card: ClassVar[Card] = Card(
        title="Plain",
        equation="none: the task term alone",
        teachers="none",
        knowledge=("none",),
        location=(),
        transfer="none",
        supervision="labels",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="none",
        cost=Cost(teacher_forwards=0),
    )

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return no terms."""
        return {}
