"""Partial teacher: a network's sub-networks, one after the other, up to the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.data.batch import Batch
from limbeck.taps.outputs import Outputs
from limbeck.teachers.base import Teacher, in_short
from limbeck.teachers.route import RouteTeacher


class PartialTeacher(RouteTeacher):
    """A route over the parts of one network, the smallest first (Zhang, Zhang and Sun 2021).

    Partial to whole distillation (arXiv 2109.12507), after the abstract: the teacher's sub-networks
    share its weights and were trained together (``limbeck.models.SharedWidths``, and ``parts_of``
    what came of it); the student learns from each for a stage, by any method. Of the paper we had
    the abstract; widths, stages and training are yours to say.

    Features of a part are those of the whole network's first channels: zeros stand for the others,
    so that they have one shape all the way, unless gradients with respect to them are asked for.

    Args:
        teachers: at least two networks (or teachers) of one kind, of rising width.
        at: when each takes over, as of a route; None: even stages.
        name: what methods call it.

    Raises:
        TeacherError: as a route.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher | nn.Module],
        *,
        at: Sequence[float] | None = None,
        name: str = "partial",
    ) -> None:
        super().__init__(teachers, at=at, name=name)
        self._missing: dict[tuple[int, str], list[int]] = {}

    def ask(
        self, batch: Batch, *, taps: Sequence[str] | None = None, require_grad: bool = False
    ) -> Outputs:
        """Return what the current part says, its features as wide as the whole network's."""
        said = super().ask(batch, taps=taps, require_grad=require_grad)
        current = self.current
        if require_grad or current == len(self.members) - 1 or not said.features:
            return said
        if any((current, tap) not in self._missing for tap in said.features):
            whole = self.members[-1].ask(batch, taps=taps).features
            for tap, feature in said.features.items():
                self._missing[current, tap] = _missing(feature, whole[tap])
        features = {
            tap: F.pad(feature, self._missing[current, tap])
            for tap, feature in said.features.items()
        }
        return Outputs(said.logits, features, said.attentions, said.members)

    @property
    def module(self) -> nn.Module | None:
        """The whole network, whose features all have the shape of."""
        return self.members[-1].module

    @property
    def forward(self) -> Callable[[Any, Any], Any] | None:
        """What the whole network is run by."""
        return self.members[-1].forward

    def describe(self) -> str:
        """Return how many parts there are, and what the whole is."""
        return (
            f"{len(self.members)} parts of one network, from {self.moments} on: "
            f"({in_short(self.members[0])}) to ({in_short(self.members[-1])})"
        )

    def close(self) -> None:
        """Close every part."""
        self._missing = {}
        super().close()


def _missing(part: Tensor, whole: Tensor) -> list[int]:
    """Return the padding that makes a part's feature as wide as the whole network's."""
    pairs = zip(part.shape[:0:-1], whole.shape[:0:-1], strict=True)
    return [amount for size, wanted in pairs for amount in (0, wanted - size)]
