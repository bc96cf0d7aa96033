"""WSLD: less of the teacher where the student already does better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.methods.base import Method, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.methods.supervised import labels_of
from limbeck.taps.outputs import Outputs


@register_method("wsld")
@dataclass(frozen=True, kw_only=True)
class WSLD(Method):
    r"""Zhou et al. (2021): soft labels weighted by student's and teacher's loss on the label.

    .. math:: T^2 \, (1 - e^{-\mathrm{CE}_S / \mathrm{CE}_T}) \, H(p, q)

    Args:
        weight: weight of the knowledge term (2.5, beside a task weight of 1, as in the authors'
            ImageNet code).
        temperature: softening of both outputs, above 0; the weights are taken at 1.
        entropy: cross-entropy to the teacher, as in the code; False: KL divergence, which has the
            same gradient and is zero where student equals teacher.
    """

    weight: float = 2.5
    temperature: float = 2.0
    entropy: bool = True

    card: ClassVar[Card] = Card(
        title="WSLD",
        paper=Paper(
            authors="Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang",
            year=2021,
            title="Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff "
            "Perspective",
            venue="ICLR 2021",
            arxiv="2102.00650",
        ),
        equation="T² (1 - exp(-CE_S/CE_T)) H(softmax(z_T/T), softmax(z_S/T))",
        transfer="cross-entropy, samples weighed",
        of_each_sample="weighs each sample by both losses on its label",
        exempt={
            "zero_at_equality": "a cross-entropy keeps the teacher's entropy; zero with "
            "entropy=False",
            "gradient": "the weight, which depends on the student, is held fixed by definition",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.temperature > 0, "temperature", "a number above 0")

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"wsld": scalar}``."""
        value = functional.wsld(
            student.logits,
            teacher.logits,
            labels_of(batch, self.name),
            temperature=self.temperature,
            entropy=self.entropy,
        )
        return {"wsld": value}
