"""Preparing lessons: wrong answers of the teacher repaired, confusing samples sharpened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.counting import CountingRuntime
from limbeck.methods.registry import register_method
from limbeck.methods.supervised import labels_of
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle

Adjustment = Literal["none", "shift", "smooth"]
ADJUSTMENTS = ("none", "shift", "smooth")

_PAPER = Paper(
    authors="Wen, Lai, Qian",
    year=2021,
    title="Preparing Lessons: Improve Knowledge Distillation with Better Supervision",
    venue="Neurocomputing 2021",
    arxiv="1911.07471",
)


def adjusted(
    logits: Tensor, targets: Tensor, how: Adjustment, *, epsilon: float, temperature: Tensor
) -> Tensor:
    """Return teacher logits that give the adjusted distribution at these temperatures.

    Args:
        logits: of the teacher, ``[batch, classes]``.
        targets: class indices ``[batch]``.
        how: "none"; "shift" swaps the label's entry with the largest; "smooth" puts a smoothed
            label in place of a wrong answer.
        epsilon: smoothing of "smooth".
        temperature: scalar or ``[batch]``.
    """
    if how == "none":
        return logits
    if how == "shift":
        return functional.swap_with_label(logits, targets)
    wide = logits.double()
    tau = temperature.to(wide)[..., None]
    smooth = functional.replace_by_smoothed_label(wide.softmax(-1), targets, epsilon=epsilon)
    wrong = functional.is_wrong(logits, targets)[:, None]
    return torch.where(wrong, tau * smooth.log(), wide)


@register_method("ka")
@dataclass(frozen=True, kw_only=True)
class KA(Method):
    r"""Wen et al. (2021), knowledge adjustment: KD from a teacher whose errors are repaired.

    .. math:: T^2 \, \mathrm{KL}(A(\sigma(z_T / T), y) \,\|\, \sigma(z_S / T))

    A changes an answer only where the teacher's first choice is not the label. It acts on training
    errors alone: with a teacher that makes none it is plain KD. The log of each epoch has the
    share of adjusted samples. Samples without a label keep the teacher's answer.

    Args:
        weight: weight of the knowledge term. Beside a task weight of 0: repaired answers are never
            wrong, so the paper is said to leave the label term out (we had no copy to hold it
            against; ``task_weight`` sets another).
        adjust: "shift" exchanges the label's probability with the largest (PS); "smooth" replaces
            the answer by a smoothed label (LSR).
        temperature: softening of both outputs, above 0.
        epsilon: smoothing of "smooth", in [0, 1).
    """

    adjust: Literal["shift", "smooth"] = "shift"
    temperature: float = 4.0
    epsilon: float = 0.1

    card: ClassVar[Card] = Card(
        title="KA",
        paper=_PAPER,
        equation="T² KL(A(softmax(z_T/T), y) ‖ softmax(z_S/T))",
        faithful="faithful in part",
        transfer="KL divergence to adjusted answers",
        supervision="labels optional",
        of_each_sample="repairs the teacher where it misses a sample's label",
        task_weight=0.0,
        exempt={"zero_at_equality": "a wrong answer is adjusted, so its own copy is not zero"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.adjust in ("shift", "smooth"), "adjust", "shift or smooth")
        self.require(self.temperature > 0, "temperature", "a number above 0")
        self.require(0 <= self.epsilon < 1, "epsilon", "a number in [0, 1)")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Count the adjusted samples."""
        return KARuntime(self, ("adjusted",))

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"ka": scalar}``."""
        said = adjusted(
            teacher.logits,
            labels_of(batch, self.name),
            self.adjust,
            epsilon=self.epsilon,
            temperature=torch.tensor(self.temperature),
        )
        return {"ka": functional.kd(student.logits, said, temperature=self.temperature)}


class KARuntime(CountingRuntime):
    """KA at work: how many answers were adjusted goes to the log."""

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return the terms, having counted."""
        wrong = functional.is_wrong(teacher.logits, labels_of(batch, self.method.name))
        self.count(len(wrong), adjusted=wrong)
        return self.method.losses(student, teacher, batch, ctx)


@register_method("dtd")
@dataclass(frozen=True, kw_only=True)
class DTD(Method):
    r"""Wen et al. (2021), dynamic temperature: confusing samples get sharper answers.

    .. math:: \tau_i^2 \, \mathrm{KL}(\sigma(z_T / \tau_i) \,\|\, \sigma(z_S / \tau_i)),
              \quad \tau_i = \tau_0 + \beta \, (\bar\omega - \omega_i)

    The mean is over the batch; no gradient flows through the temperatures. The log of each epoch
    has the share of samples whose temperature was held at the floor, and of adjusted ones.

    Args:
        weight: weight of the knowledge term, beside a task weight of 0.1 (those of plain KD; the
            paper's are not known to us).
        temperature: the base τ_0, above 0.
        weighting: ω. "flsw": (1 - cosine of the two logits)^gamma. "cwsm": one over the student's
            largest probability.
        bias: β, at least 0; with 0 this is plain KD. Users of the method have run 1 to 80: with 1
            and "flsw" little happens, with 40 the floor acts on many samples.
        gamma: power of "flsw", at least 0; with 0 this is plain KD.
        min_temperature: floor of every temperature, above 0. The method's sources have none.
        adjust: also repair wrong answers, as ``ka`` does: "none", "shift" or "smooth".
        epsilon: smoothing of "smooth", in [0, 1).
    """

    weight: float = 0.9
    temperature: float = 4.0
    weighting: Literal["flsw", "cwsm"] = "flsw"
    bias: float = 10.0
    gamma: float = 1.0
    min_temperature: float = 1.0
    adjust: Adjustment = "none"
    epsilon: float = 0.1

    card: ClassVar[Card] = Card(
        title="DTD",
        paper=_PAPER,
        equation="τ_i² KL(softmax(z_T/τ_i) ‖ softmax(z_S/τ_i)), τ_i = τ_0 + β (mean ω - ω_i)",
        faithful="faithful in part",
        transfer="KL divergence, a temperature for each sample",
        separable=False,
        of_each_sample="repairs the teacher where it misses a sample's label (adjust)",
        task_weight=0.1,
        exempt={
            "halves": "the temperatures are relative to the mean of the batch",
            "gradient": "temperatures, which depend on the student, are held fixed by definition",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("temperature", "min_temperature"):
            self.require(getattr(self, name) > 0, name, "a number above 0")
        for name in ("bias", "gamma"):
            self.require(getattr(self, name) >= 0, name, "a number of at least 0")
        self.require(self.weighting in ("flsw", "cwsm"), "weighting", "flsw or cwsm")
        self.require(self.adjust in ADJUSTMENTS, "adjust", "none, shift or smooth")
        self.require(0 <= self.epsilon < 1, "epsilon", "a number in [0, 1)")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Count what the floor held, and what was adjusted."""
        names = ("floored",) if self.adjust == "none" else ("floored", "adjusted")
        return DTDRuntime(self, names)

    @property
    def of_each_sample(self) -> str:
        """Repairs answers, where that was asked for."""
        return self.card.of_each_sample if self.adjust != "none" else ""

    def temperatures(self, student: Outputs, teacher: Outputs) -> Tensor:
        """Return the temperature of each sample ``[batch]``."""
        omega = functional.confusion(
            student.logits, teacher.logits, weighting=self.weighting, gamma=self.gamma
        )
        return functional.sample_temperatures(
            omega, base=self.temperature, bias=self.bias, minimum=self.min_temperature
        )

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"dtd": scalar}``."""
        tau = self.temperatures(student, teacher)
        said = teacher.logits
        if self.adjust != "none":
            targets = labels_of(batch, self.name)
            said = adjusted(said, targets, self.adjust, epsilon=self.epsilon, temperature=tau)
        return {"dtd": functional.kd_per_sample(student.logits, said, tau)}


class DTDRuntime(CountingRuntime):
    """DTD at work: how often the floor held, and answers were adjusted, goes to the log."""

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return the terms, having counted."""
        method = cast(DTD, self.method)
        tau = method.temperatures(student, teacher)
        happened = {"floored": tau <= method.min_temperature}
        if method.adjust != "none":
            targets = labels_of(batch, method.name)
            happened["adjusted"] = functional.is_wrong(teacher.logits, targets)
        self.count(len(tau), **happened)
        return method.losses(student, teacher, batch, ctx)
