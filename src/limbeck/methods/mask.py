"""Mask: a student of which only some weights live, from the first step to the last."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Cost, Paper
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.taps import unwrap
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("mask")
@dataclass(frozen=True, kw_only=True)
class Mask(Method):
    r"""Safaryan, Peste and Alistarh (2023): a compressed student, as in ``PVR() + Mask()``.

    .. math:: x \leftarrow C(x - \gamma g), \quad C(x) = m \odot x

    The mask m is chosen from the weights that the student starts with, layer by layer, and stays.
    Weights outside of it are set to 0, and so are their gradients, which keeps them there with any
    optimiser. Biases and norms are left whole.

    Args:
        weight: has no meaning here, as there are no loss terms; 1.
        keep: share of each layer's weights that live, in (0, 1] (0.5 in the authors' code).
        choose: "magnitude" keeps the largest, "bernoulli" each with probability ``keep``.
    """

    keep: float = 0.5
    choose: Literal["magnitude", "bernoulli"] = "magnitude"

    card: ClassVar[Card] = Card(
        title="Mask",
        paper=Paper(
            authors="Safaryan, Peste, Alistarh",
            year=2023,
            title="Knowledge Distillation Performs Partial Variance Reduction",
            venue="NeurIPS 2023",
            arxiv="2305.17581",
        ),
        equation="x ← m ⊙ (x - γ g), the mask m fixed from the start",
        teachers="those of the methods beside it",
        knowledge=("none",),
        location=(),
        transfer="none of its own",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="none",
        cost=Cost(teacher_forwards=0.0),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.weight == 1, "weight", "1, as there is nothing to weigh")
        self.require(0 < self.keep <= 1, "keep", "a share in (0, 1]")
        self.require(self.choose in ("magnitude", "bernoulli"), "choose", "magnitude or bernoulli")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Choose the mask, and set the student's other weights to 0."""
        runtime = MaskRuntime(self, unwrap(student))
        runtime.choose(ctx.generator)
        return runtime

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return no terms."""
        return {}


class MaskRuntime(Runtime):
    """A mask at work: it remembers which weights live."""

    def __init__(self, method: Mask, student: nn.Module) -> None:
        super().__init__(method)
        self.__dict__["masked"] = {
            name: value for name, value in student.named_parameters() if value.dim() > 1
        }
        for position, value in enumerate(self._masked.values()):
            self.register_buffer(f"alive_{position}", torch.ones_like(value, dtype=torch.bool))

    @property
    def _masked(self) -> dict[str, nn.Parameter]:
        return cast(dict[str, nn.Parameter], self.__dict__["masked"])

    @torch.no_grad()
    def choose(self, generator: torch.Generator) -> None:
        """Choose the weights that live, and clear the others."""
        method = cast(Mask, self.method)
        for value, alive in zip(self._masked.values(), self.buffers(), strict=True):
            if method.choose == "magnitude":
                alive.copy_(_largest(value, method.keep))
            else:
                drawn = torch.rand(value.shape, generator=generator)
                alive.copy_(drawn < method.keep)
            value.mul_(alive)

    def gradients(self, ctx: Context) -> Mapping[str, Tensor]:
        """Take the gradients of dead weights away."""
        pairs = zip(self._masked.items(), self.buffers(), strict=True)
        return {
            name: torch.where(alive, 0.0, -value.grad)
            for (name, value), alive in pairs
            if value.grad is not None
        }

    def report(self) -> Mapping[str, float]:
        """Return the share of all masked layers' weights that live."""
        total = sum(alive.numel() for alive in self.buffers())
        living = sum(int(alive.sum()) for alive in self.buffers())
        return {"alive": living / max(total, 1)}


def _largest(value: Tensor, share: float) -> Tensor:
    """Return where the largest ``share`` of the magnitudes are; ties go to the first ones."""
    count = math.ceil(share * value.numel())
    order = value.abs().flatten().argsort(descending=True, stable=True)
    alive = torch.zeros(value.numel(), dtype=torch.bool, device=value.device)
    alive[order[:count]] = True
    return alive.view_as(value)
