"""KED: what each group of features says, not only what all say together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError, ModelError
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.branch_hints import BranchHints, make_hints
from limbeck.methods.card import Card, Coupling, Paper
from limbeck.methods.context import Context
from limbeck.methods.layers import teacher_with_layers
from limbeck.methods.registry import register_method
from limbeck.models.additive import EXPLANATIONS, grouping_of, head_that_explains
from limbeck.taps import unwrap
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("ked")
@dataclass(frozen=True, kw_only=True)
class KED(Method):
    r"""Chowdhury et al. (2023): the teacher's superfeature-explanations beside its prediction.

    .. math:: (1-\mu) \, T^2 \, \mathrm{KL}(\sigma(Z_T/T) \,\|\, \sigma(Z_S/T))
              + \mu \, \frac{\tau^2}{M} \sum_i
              \mathrm{KL}(\sigma(\log e_{T,i}/\tau) \,\|\, \sigma(\log e_{S,i}/\tau))

    Student and teacher are explaining networks of as many groups (``explaining_mlp``,
    ``explaining_resnet``). Before training the student takes over the teacher's groups of features
    and its prior. Figures are those of the authors' code, a weight of λ = 0.7 beside a task weight
    of 1 - λ = 0.3 among them; the paper's text was not at hand.

    With ``mu=0`` it is KD of two branched networks; with one group and T = τ it is KD.

    Args:
        weight: λ, weight of all that the teacher says.
        mu: share of the explanations, in [0, 1].
        temperature: T, softening of the predictions, above 0.
        tau: τ, softening of the explanations, above 0.
        hint: also compare the branches' last features: "fitnet" (mean squared error behind a
            learned 3x3 convolution, norm and ReLU; a linear map for vectors), "at" (attention maps,
            times 1000; images alone) or "sp" (similarities of samples, times 3000).
        rho: share of the hints in what μ gives, in [0, 1]; without a hint it has no meaning.
        floor: lifts the teacher's predicted probabilities before they are softened, in [0, 1).
            The authors' code adds 1e-15, which at T = 10 is 3 % of the top class; by default they
            are the teacher's own. Explanations have that floor in both networks.
        teacher_view: what the teacher sees: "same" as the student, or the "clean" sample without
            augmentation, as in the authors' code for images.
    """

    weight: float = 0.7
    mu: float = 0.7
    temperature: float = 10.0
    tau: float = 10.0
    hint: Literal["none", "fitnet", "at", "sp"] = "none"
    rho: float = 0.7
    floor: float = 0.0
    teacher_view: Literal["same", "clean"] = "same"

    card: ClassVar[Card] = Card(
        title="KED",
        paper=Paper(
            authors="Chowdhury, Liang, Tizghadam, Albanese",
            year=2023,
            title="KED: Improving Knowledge Distillation with Teacher's Explanation",
            arxiv="2310.02572",
        ),
        equation="(1-μ) T² KL(Z_T/T ‖ Z_S/T) + μ τ²/M Σ_i KL(log e_T,i/τ ‖ log e_S,i/τ)",
        faithful="faithful in part",
        knowledge=("response", "explanation"),
        location=("output", "intermediate"),
        transfer="KL divergence",
        task_weight=0.3,
        teacher_access="module",
        of_each_sample="shows the teacher each sample as it is (teacher_view: clean)",
    )
    example_student: ClassVar[Mapping[str, Any]] = {
        "model": "explaining_mlp",
        "groups": 2,
        "width": 6,
    }
    example_teacher: ClassVar[Mapping[str, Any] | None] = {
        "model": "explaining_mlp",
        "groups": 2,
        "width": 9,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.mu <= 1, "mu", "a share in [0, 1]")
        self.require(self.temperature > 0, "temperature", "a number above 0")
        self.require(self.tau > 0, "tau", "a number above 0")
        self.require(self.hint in ("none", "fitnet", "at", "sp"), "hint", "none, fitnet, at or sp")
        self.require(0 <= self.rho <= 1, "rho", "a share in [0, 1]")
        self.require(0 <= self.floor < 1, "floor", "a number in [0, 1)")
        self.require(self.teacher_view in ("same", "clean"), "teacher_view", "same or clean")

    @property
    def coupling(self) -> Coupling:
        """Similarities compare the samples of a batch."""
        return "batch" if self.hint == "sp" else "none"

    @property
    def of_each_sample(self) -> str:
        """The clean view is that of one sample."""
        return self.card.of_each_sample if self.teacher_view == "clean" else ""

    @property
    def compares_all_ranks(self) -> bool:
        """Whether the samples of all ranks are compared: their similarities are."""
        return self.hint == "sp"

    def student_taps(self) -> tuple[str, ...]:
        """What each branch says."""
        return (EXPLANATIONS,)

    def teacher_taps(self) -> tuple[str, ...]:
        """What each branch of the teacher says."""
        return (EXPLANATIONS,)

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """See that both explain themselves in as many parts; pair the branches' features.

        Raises:
            MethodError: one does not, their groups cannot be the same, or the teacher's answers
                are scaled by a calibration.
        """
        teacher = teacher_with_layers(self, teachers)
        ours = unwrap(student)
        if teacher.rescales:
            raise MethodError(
                f"method ked: the groups of teachers.{teacher.name} explain the answers of its "
                "network, not those scaled by a calibration; use the teacher without it"
            )
        theirs = unwrap(teacher.module) if teacher.module is not None else teacher
        groups = []
        for who, network in (("student", ours), (f"teachers.{teacher.name}", theirs)):
            try:
                groups.append(len(head_that_explains(network).branches))
            except ModelError as error:
                raise MethodError(f"method ked: {who}: {error}") from error
        if groups[0] != groups[1]:
            raise MethodError(
                f"method ked: the student has {groups[0]} groups, the teacher {groups[1]}; give "
                "them as many"
            )
        if (grouping_of(ours) is None) != (grouping_of(theirs) is None):
            raise MethodError(
                f"method ked: {type(ours).__name__} and {type(theirs).__name__} do not group the "
                "same things: the one features, the other channels"
            )
        if self.teacher_view == "clean" and data is None:
            raise MethodError("method.teacher_view: clean needs data whose samples have an index")
        hints = make_hints(self, self.hint, groups[0], student, teachers, ctx)
        return KEDRuntime(self, ours, theirs, data, hints)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``prediction`` and ``explanation``, each times its share."""
        theirs = teacher.logits
        if self.floor:
            theirs = functional.superfeature_explanations(
                theirs.unsqueeze(1), floor=self.floor
            ).squeeze(1)
        prediction = functional.kd(student.logits, theirs, temperature=self.temperature)
        explanation = functional.superfeature_kd(
            _explained(student, "student"), _explained(teacher, "teacher"), temperature=self.tau
        )
        share = self.mu * (1 - self.rho) if self.hint != "none" else self.mu
        return {"prediction": (1 - self.mu) * prediction, "explanation": share * explanation}


class KEDRuntime(Runtime):
    """KED at work: the hints' regressors, trained with the student and left behind."""

    def __init__(
        self,
        method: KED,
        student: nn.Module,
        teacher: nn.Module,
        data: DataBundle | None,
        hints: BranchHints | None,
    ) -> None:
        super().__init__(method)
        self.hints = hints
        self.data = data
        self.__dict__["networks"] = (student, teacher)  # trained and saved elsewhere

    def fit(self, data: DataBundle, ctx: Context) -> None:
        """Give the student the teacher's groups and its prior."""
        student, teacher = self.__dict__["networks"]
        ours, theirs = grouping_of(student), grouping_of(teacher)
        if ours is not None and theirs is not None:
            ours.regroup(theirs.group.to(ours.group.device))
        with torch.no_grad():
            student.head.prior.copy_(teacher.head.prior)

    def student_taps(self) -> tuple[str, ...]:
        """What each branch says, and its features for a hint."""
        taps = super().student_taps()
        return taps if self.hints is None else (*taps, self.hints.tap)

    def teacher_taps(self) -> tuple[str, ...]:
        """The same of the teacher."""
        taps = super().teacher_taps()
        return taps if self.hints is None else (*taps, self.hints.tap)

    def batch(self, batch: Batch, ctx: Context) -> Batch:
        """Show the teacher the samples without augmentation, where that was asked for."""
        method = cast(KED, self.method)
        if method.teacher_view == "same" or batch.index is None or self.data is None:
            return batch
        raw = self.data.splits["train"].at(batch.positions)
        clean = self.data.augment_eval(raw.inputs, raw.index).to(batch.inputs)
        if batch.changed is not None:  # of a made-up sample there is no other view
            made = batch.changed.view(-1, *[1] * (clean.ndim - 1))
            clean = torch.where(made, batch.inputs, clean)
        return batch.replace(teacher_inputs=clean)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return the method's terms, and ``hint`` where there is one."""
        method = cast(KED, self.method)
        terms = dict(method.losses(student, teacher, batch, ctx))
        if self.hints is not None:
            terms["hint"] = method.mu * method.rho * self.hints(student, teacher, ctx)
        return terms


def _explained(said: Outputs, who: str) -> Tensor:
    if EXPLANATIONS not in said.features:
        raise MethodError(
            "method ked: needs log-probabilities of each group, [batch, groups, classes], as the "
            f"{who}'s feature {EXPLANATIONS!r}; got {list(said.features)}"
        )
    return said.features[EXPLANATIONS]
