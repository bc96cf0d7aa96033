"""CC: samples of a batch should stand to each other as they do for the teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.methods.base import Runtime, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.paired import Paired, PairedRuntime, total
from limbeck.methods.registry import register_method
from limbeck.taps import TapPair
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("cc")
@dataclass(frozen=True, kw_only=True)
class CC(Paired):
    r"""Peng et al. (2019): correlation congruence, in the authors' short form or by the kernel.

    .. math:: \text{neighbours:} \; \mathrm{mean}_i \sum_d \delta_{id} \, \delta_{i+1,d}, \;
              \delta = |e_S - e_T|; \qquad \text{kernel:} \; \tfrac{1}{B^2} \|C_S - C_T\|_F^2

    "neighbours" is what the authors gave RepDistiller: learned linear embeddings of both networks'
    features, and the gaps of samples that are next to each other in the batch; it depends on their
    order. "kernel" compares the matrices of a Gaussian kernel, γ = ``gamma``, of the features
    themselves, scaled to length 1; nothing is learned beside the student.

    Args:
        weight: weight of the term (0.02 beside a task weight of 1, as RepDistiller runs the form of
            neighbours; the kernel form's values are of another size).
        pairs: "auto" takes the vectors that the heads read; a tap of the same name in both; or
            pairs ``((student tap, teacher tap), …)``. Features of any form are flattened.
        form: "neighbours": gaps of samples that are next to each other in the batch, the authors'
            short form; "kernel": matrices of a kernel over all pairs, as the paper has it.
        dim: size of the embeddings of the first form, at least 1.
        gamma: γ of the kernel, above 0.
        order: highest power of the kernel's expansion, at least 1; None: the kernel itself.
    """

    weight: float = 0.02
    pairs: str | tuple[Any, ...] = "auto"
    form: Literal["neighbours", "kernel"] = "neighbours"
    dim: int = 128
    gamma: float = 0.4
    order: int | None = 2

    automatic: ClassVar[tuple[tuple[str, str], ...]] = (("penultimate", "penultimate"),)
    reads: ClassVar[tuple[str, ...]] = ()
    card: ClassVar[Card] = Card(
        title="CC",
        paper=Paper(
            authors="Peng, Jin, Liu, Li, Wu, Liu, Zhou, Zhang",
            year=2019,
            title="Correlation Congruence for Knowledge Distillation",
            venue="ICCV 2019",
            arxiv="1904.01802",
        ),
        equation="mean_i |e_S - e_T|_i · |e_S - e_T|_(i+1), or ‖C_S - C_T‖² / B²",
        faithful="faithful in part",
        knowledge=("feature", "relation"),
        location=("intermediate",),
        transfer="gaps of neighbours, or squared error of kernel matrices",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="features",
        separable=False,
        exempt={
            "zero_at_equality": "learned embeddings stand between; form='kernel' is zero",
            "permutation": "the authors' form compares samples that are next to each other",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.form in ("neighbours", "kernel"), "form", "neighbours or kernel")
        self.require(self.dim >= 1, "dim", "a whole number of at least 1")
        self.require(self.gamma > 0, "gamma", "a number above 0")
        whole = self.order is None or self.order >= 1
        self.require(whole, "order", "a whole number of at least 1, or none")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the layers; embed both where the form wants it."""
        found = self.find_pairs(student, teachers, ctx)
        return PairedRuntime(self, found) if self.form == "kernel" else CCRuntime(self, found)

    def compare(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return the kernel form, summed over the pairs."""
        if self.form != "kernel":
            return super().compare(student, teacher)
        return total(
            [
                functional.correlation_congruence(
                    ours.flatten(1), theirs.flatten(1), gamma=self.gamma, order=self.order
                )
                for ours, theirs in zip(student, teacher, strict=True)
            ]
        )

    def _check_forms(self, pair: TapPair) -> None:
        """Features of any form are flattened."""


class CCRuntime(PairedRuntime):
    """The form of neighbours at work: an embedding of each side, both trained."""

    def __init__(self, method: CC, pairs: Sequence[TapPair]) -> None:
        super().__init__(method, pairs)
        sides = [(pair.student_shape, pair.teacher_shape) for pair in pairs]
        self.embeddings = nn.ModuleList(
            nn.ModuleList(nn.Linear(math.prod(shape[1:]), method.dim) for shape in both)
            for both in sides
        )

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"cc": scalar}``, the sum over the pairs."""
        values = []
        rows = zip(self.embeddings, *self.features(student, teacher), strict=True)
        for both, ours, theirs in rows:
            embed_student, embed_teacher = cast(nn.ModuleList, both)
            values.append(
                functional.neighbour_congruence(
                    embed_student(ours.flatten(1)), embed_teacher(theirs.detach().flatten(1))
                )
            )
        return {"cc": total(values)}
