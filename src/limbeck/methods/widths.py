"""Methods that compare channel with channel: layers must be of the same width, and in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from limbeck.errors import ShapeError
from limbeck.methods.context import Context
from limbeck.methods.paired import Paired, PairedRuntime, as_map, map_shape
from limbeck.taps import TapPair
from limbeck.taps.outputs import Outputs


def match_width(projector: str, pair: TapPair, method: str) -> nn.Module:
    """Return the map from a student's channels to the teacher's: none where they are as many.

    Args:
        projector: "auto": a 1x1 convolution where the widths differ; "identity": refuse that.
        pair: the layers; tokens as maps of one column.
        method: for the message.

    Raises:
        ShapeError: the widths differ and nothing may be learned.
    """
    ours, theirs = map_shape(pair.student_shape)[1], map_shape(pair.teacher_shape)[1]
    if ours == theirs:
        return nn.Identity()
    if projector == "identity":
        raise ShapeError(
            f"method {method}: student tap {pair.student!r} has {ours} channels, teacher tap "
            f"{pair.teacher!r} has {theirs}: layers must be of the same width without a projector; "
            "set projector: auto, or name layers that fit (pairs: [[student tap, teacher tap]])"
        )
    return nn.Conv2d(ours, theirs, 1, bias=False)


class WidthRuntime(PairedRuntime):
    """A method on pairs of layers that must be of the same width: projectors where they are not."""

    def __init__(self, method: Paired, pairs: Sequence[TapPair], projector: str) -> None:
        super().__init__(method, pairs)
        self.projectors = nn.ModuleList(match_width(projector, p, method.name) for p in pairs)

    def features(self, student: Outputs, teacher: Outputs) -> tuple[list[Tensor], list[Tensor]]:
        """Return the paired features as maps, the student's at the teacher's width."""
        ours, theirs = super().features(student, teacher)
        maps = [
            projector(as_map(feature))
            for projector, feature in zip(self.projectors, ours, strict=True)
        ]
        return maps, [as_map(feature) for feature in theirs]


def at_least_two(
    method: Paired, student: nn.Module, teachers: Mapping[str, Any], ctx: Context
) -> list[TapPair]:
    """Return the pairs of a method that compares consecutive layers.

    Raises:
        ShapeError: there is one pair alone.
    """
    found = method.find_pairs(student, teachers, ctx)
    if len(found) < 2:
        raise ShapeError(
            f"method {method.name}: compares consecutive layers and found one pair alone "
            f"({found[0].student!r}, {found[0].teacher!r}); name two or more (pairs: [[student "
            "tap, teacher tap], …])"
        )
    return found
