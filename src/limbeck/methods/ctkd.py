"""CTKD: a temperature that is learned against the student, from easy to hard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("ctkd")
@dataclass(frozen=True, kw_only=True)
class CTKD(Method):
    r"""Li et al. (2023): KD at a temperature that learns to make the divergence larger.

    .. math:: T^2 \, \mathrm{KL}(\sigma(z_T / T) \,\|\, \sigma(z_S / T)), \quad
              T = T_0 + R \, \sigma(\theta)

    θ is one number for all samples, trained by the student's optimiser with the gradient of the
    loss turned round: times λ(e), which falls from 0 to -1 over the first epochs. The log of each
    epoch has the temperature.

    Args:
        weight: weight of the knowledge term (0.9, beside a task weight of 0.1).
        start: T_0, the lowest temperature, above 0.
        span: R, the widest rise above it, above 0.
        theta: θ at the start; 1 gives T = 15.6.
        ramp_epochs: epochs over which λ goes from 0 to -1 along a cosine; at least 1.
    """

    weight: float = 0.9
    start: float = 1.0
    span: float = 20.0
    theta: float = 1.0
    ramp_epochs: int = 10

    card: ClassVar[Card] = Card(
        title="CTKD",
        paper=Paper(
            authors="Li, Li, Yang, Zhao, Song, Luo, Li, Yang",
            year=2023,
            title="Curriculum Temperature for Knowledge Distillation",
            venue="AAAI 2023",
            arxiv="2211.16231",
        ),
        equation="T² KL(softmax(z_T/T) ‖ softmax(z_S/T)), T learned with the gradient reversed",
        faithful="faithful in part",
        transfer="KL divergence at a learned temperature",
        task_weight=0.1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.start > 0, "start", "a number above 0")
        self.require(self.span > 0, "span", "a number above 0")
        self.require(self.ramp_epochs >= 1, "ramp_epochs", "a whole number of at least 1")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Make the temperature's parameter."""
        return CTKDRuntime(self)

    def reversal(self, epoch: int) -> float:
        """Return λ at an epoch, counted from 0: 0 at the first, -1 from ``ramp_epochs`` on."""
        share = min(epoch / self.ramp_epochs, 1.0)
        return -(1 - math.cos(math.pi * share)) / 2

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"ctkd": scalar}`` at the temperature of the start, fixed."""
        fixed = self.start + self.span / (1 + math.exp(-self.theta))
        return {"ctkd": functional.kd(student.logits, teacher.logits, temperature=fixed)}


class CTKDRuntime(Runtime):
    """CTKD at work: holds θ."""

    def __init__(self, method: CTKD) -> None:
        super().__init__(method)
        self.theta = nn.Parameter(torch.tensor([method.theta]))

    def temperature(self) -> Tensor:
        """Return T, ``[1]``."""
        method = cast(CTKD, self.method)
        return method.start + method.span * self.theta.sigmoid()

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return the divergence; θ gets its gradient times λ, the student gets its own."""
        turn = cast(CTKD, self.method).reversal(ctx.epoch)
        hot = self.temperature()
        hot = turn * hot + (1 - turn) * hot.detach()  # the value of T, the gradient times λ
        value = functional.kd_at_temperature(student.logits, teacher.logits, temperature=hot)
        return {"ctkd": value}

    def report(self) -> Mapping[str, float]:
        """The temperature."""
        return {"temperature": float(self.temperature().detach())}
