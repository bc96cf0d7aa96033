"""ONE: a network with several ends, all of which learn from what they say together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError, ModelError
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Cost, Paper
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.methods.supervised import labels_of
from limbeck.models.branched import Branched, chain_of
from limbeck.taps import unwrap
from limbeck.taps.outputs import Outputs
from limbeck.taps.roles import infer_roles

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("one")
@dataclass(frozen=True, kw_only=True)
class ONE(Method):
    r"""Lan, Zhu and Gong (2018): an on-the-fly native ensemble.

    .. math:: \sum_i \mathrm{CE}(y, q_i) + \mathrm{CE}(y, q_e)
              + r \, T^2 \sum_i \mathrm{KL}(q_e \,\|\, q_i), \quad z_e = \textstyle\sum_i g_i z_i

    The student's last stage and head are there several times over one trunk; a gate weighs what
    they say, sample by sample. There is no teacher. Deployed is the student as it was given, the
    first branch, or with ``deploy: ensemble`` all branches and the gate.

    The student must be a chain of modules (the networks of ``limbeck models`` with stages of
    convolutions are, and many of timm). The further branches start from weights of their own.

    Args:
        weight: weight of the divergences (1), beside a task weight of 1.
        branches: ends in all, at least 2.
        temperature: T, softening of both outputs, above 0.
        ramp_epochs: epochs over which r grows from 0.007 to 1 along
            exp(-5 (1 - e/n)²), at least 0; 0: at once.
        split: path of the first module of a branch; None: the last of the student's stages.
        deploy: "branch": the student as given; "ensemble": every branch, and the gate.
    """

    branches: int = 3
    temperature: float = 3.0
    ramp_epochs: int = 80
    split: str | None = None
    deploy: Literal["branch", "ensemble"] = "branch"

    card: ClassVar[Card] = Card(
        title="ONE",
        paper=Paper(
            authors="Lan, Zhu, Gong",
            year=2018,
            title="Knowledge Distillation by On-the-Fly Native Ensemble",
            venue="NeurIPS 2018",
            arxiv="1806.04606",
        ),
        equation="Σ_i CE(y, q_i) + CE(y, q_e) + r T² Σ_i KL(q_e ‖ q_i), z_e = Σ_i g_i z_i",
        teachers="none (the student's own branches together)",
        merge="gated sum of logits",
        transfer="KL divergence",
        supervision="labels",
        timing="online",
        teacher_access="none",
        replaces_task=True,
        changes_student=True,
        cost=Cost(teacher_forwards=0, student_steps=2.0),
        exempt={
            "zero_at_equality": "there is no teacher: the branches differ from each other",
            "gradient": "the ensemble is held fixed while it teaches, and learns by its own term",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.branches >= 2, "branches", "a whole number of at least 2")
        self.require(self.temperature > 0, "temperature", "a number above 0")
        self.require(self.ramp_epochs >= 0, "ramp_epochs", "a whole number of at least 0")
        self.require(self.deploy in ("branch", "ensemble"), "deploy", "branch or ensemble")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Give the student its further branches and the gate."""
        student = unwrap(student)
        if ctx.example is None or not isinstance(ctx.example.inputs, Tensor):
            raise MethodError("method one: branches networks that read one tensor, not these")
        if ctx.forward is not None:
            raise MethodError(
                "method one: branches networks that are called as model(inputs); leave out forward"
            )
        inputs = ctx.example.inputs
        try:
            roles = infer_roles(student, inputs, stages=self.split is None)
            split = self.split or roles["stages"][-1]
            if split not in dict(student.named_modules()):
                raise ModelError(f"no module {split!r}; method.split names the path of one")
            trunk, tail, feature = chain_of(student, inputs, split)
        except ModelError as error:
            raise MethodError(f"method one: {error}") from error
        tokens = feature.dim() == 3
        branched = Branched(
            student,
            trunk=trunk,
            tail=tail,
            branches=self.branches,
            features=feature.shape[-1 if tokens else 1],
            answer=self.deploy,
            roles=roles,
        )
        return ONERuntime(self, branched.to(inputs.device))

    def ramp(self, epoch: int) -> float:
        """Return r at an epoch, counted from 0."""
        done = min(epoch / self.ramp_epochs, 1.0) if self.ramp_epochs else 1.0
        return math.exp(-5 * (1 - done) ** 2)

    def student_taps(self) -> tuple[str, ...]:
        """What every branch says, and all together."""
        return ("voices",)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"one": scalar}``, the ramp included."""
        voices = self._voices(student)
        value = functional.native_ensemble(
            voices[:, :-1], voices[:, -1], temperature=self.temperature
        )
        return {"one": self.ramp(ctx.epoch) * value}

    def task_loss(self, student: Outputs, batch: Batch, ctx: Context) -> Tensor:
        """Return the cross-entropies of all branches and of the ensemble, summed."""
        targets = labels_of(batch, self.name)
        voices = self._voices(student).unbind(dim=1)
        return torch.stack([functional.cross_entropy(z, targets) for z in voices]).sum()

    def _voices(self, student: Outputs) -> Tensor:
        if "voices" not in student.features:
            raise MethodError(
                "method one: needs what every branch says, [batch, branches + 1, classes], as the "
                f"student's feature 'voices'; got {list(student.features)}"
            )
        return student.features["voices"]


class ONERuntime(Runtime):
    """ONE at work: the student has its branches, until it is deployed."""

    def deploy(self, student: nn.Module) -> nn.Module:
        """Return the first branch, which is the student as it was given; or all."""
        if cast(ONE, self.method).deploy == "ensemble":
            return student
        return cast(Branched, student).network

    def deployed_spec(
        self, spec: Mapping[str, Any] | None, student: nn.Module
    ) -> Mapping[str, Any] | None:
        """Return how to rebuild what is deployed."""
        return student.spec(spec) if isinstance(student, Branched) else spec
