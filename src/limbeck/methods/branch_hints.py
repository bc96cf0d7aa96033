"""Hints between the branches of two explaining networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.errors import MethodError
from limbeck.methods.base import Method
from limbeck.methods.context import Context
from limbeck.methods.layers import find_pairs
from limbeck.models.additive import HIDDEN
from limbeck.taps import make_projector
from limbeck.taps.outputs import Outputs

SCALES = {"fitnet": 1.0, "at": 1000.0, "sp": 3000.0}
"""By what each distance is multiplied in the code of Chowdhury et al. (2310.02572)."""


class BranchHints(nn.Module):
    """The mean over the branches of a distance between their last features.

    Args:
        kind: "fitnet", "at" or "sp".
        groups: branches.
        student_shape: of all branches side by side, batch dimension first.
        teacher_shape: likewise.
    """

    tap = HIDDEN

    def __init__(
        self,
        kind: str,
        groups: int,
        student_shape: tuple[int, ...],
        teacher_shape: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.kind, self.groups = kind, groups
        self.regressors = nn.ModuleList()
        if kind == "fitnet":
            ours, theirs = (
                (size[0], size[1] // groups, *size[2:]) for size in (student_shape, teacher_shape)
            )
            for _ in range(groups):
                self.regressors.append(_regressor(ours, theirs))

    def forward(self, student: Outputs, teacher: Outputs, ctx: Context) -> Tensor:
        """Return ``1/M Σ_i D(h_S,i, h_T,i)``."""
        ours, theirs = student.features[self.tap], teacher.features[self.tap].detach()
        if self.kind == "sp":
            ours, theirs = ctx.gather(ours), ctx.gather(theirs)
        pairs = zip(ours.chunk(self.groups, 1), theirs.chunk(self.groups, 1), strict=True)
        total = torch.stack([self._distance(i, *pair) for i, pair in enumerate(pairs)]).sum()
        return SCALES[self.kind] / self.groups * total

    def _distance(self, branch: int, student: Tensor, teacher: Tensor) -> Tensor:
        if self.kind == "fitnet":
            return functional.hint(self.regressors[branch](student), teacher)
        if self.kind == "at":
            return functional.attention_transfer(student, teacher)
        return functional.sp(student, teacher)


def make_hints(
    method: Method,
    kind: str,
    groups: int,
    student: nn.Module,
    teachers: Mapping[str, Any],
    ctx: Context,
) -> BranchHints | None:
    """Return the hints of a kind; None for "none".

    Raises:
        MethodError: attention maps of vectors.
    """
    if kind == "none":
        return None
    (pair,) = find_pairs(method, ((HIDDEN, HIDDEN),), student, teachers, ctx)
    if kind == "at" and len(pair.student_shape) != 4:
        raise MethodError(
            "method.hint: at compares maps, the branches of these networks end in vectors; use "
            "fitnet or sp"
        )
    return BranchHints(kind, groups, tuple(pair.student_shape), tuple(pair.teacher_shape))


def _regressor(student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
    names = (HIDDEN, HIDDEN)
    if len(student) != 4:
        return make_projector("linear", student, teacher, names=names)
    kind = "conv3x3" if student[2:] == teacher[2:] else "regressor"
    return make_projector(kind, student, teacher, norm=True, activation=True, names=names)
