"""Several teachers at once, each sample by those who know it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import IGNORE, Batch
from limbeck.errors import MethodError, TeacherError
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.layers import teacher_with_layers
from limbeck.methods.registry import register_method
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("camkd")
@dataclass(frozen=True, kw_only=True)
class CAMKD(Method):
    r"""Zhang, Chen and Wang (2022): each teacher counts for a sample as sure as it is of the label.

    .. math:: \frac{1}{K} \sum_k w_k \, T^2 \, \mathrm{KL}(\sigma(z_k / T) \,\|\, \sigma(z_S / T)),
              \quad w_k = \frac{1 - \mathrm{softmax}_k(\mathrm{CE}_k)}{K - 1}

    The teachers are the members of an ensemble (``teacher: {ensemble: [...]}``). A sample without
    a label counts all alike; one teacher alone is KD. The authors' second term, on features before
    the last block, is not part of it: an ensemble gives none.

    Args:
        weight: weight of the knowledge term, beside a task weight of 1.
        temperature: softening of all sides, above 0.
        shares: fixed weights instead, one a teacher, scaled to sum 1; equal ones are the averaged
            multi-teacher loss that the authors compare with.
        divide: whether the sum, whose weights sum to 1, is also divided by the number of teachers,
            as the authors' code does.
    """

    weight: float = 1.0
    temperature: float = 4.0
    shares: tuple[float, ...] | None = None
    divide: bool = True

    card: ClassVar[Card] = Card(
        title="CA-MKD",
        paper=Paper(
            authors="Zhang, Chen, Wang",
            year=2022,
            title="Confidence-Aware Multi-Teacher Knowledge Distillation",
            venue="ICASSP 2022",
            arxiv="2201.00007",
        ),
        equation="1/K Σ_k w_k T² KL(softmax(z_k/T) ‖ softmax(z_S/T)), w_k by CE on the label",
        faithful="faithful in part",
        teachers="several, the members of an ensemble",
        merge="sum of divergences, weighted for each sample",
        transfer="KL divergence",
        of_each_sample="weighs the teachers by their loss on a sample's label (without shares)",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.temperature > 0, "temperature", "a number above 0")
        good = self.shares is None or (min(self.shares, default=-1) >= 0 < sum(self.shares))
        self.require(good, "shares", "numbers of at least 0, not all 0, one for each teacher")

    @property
    def of_each_sample(self) -> str:
        """Reads labels, unless the teachers' weights are given."""
        return self.card.of_each_sample if self.shares is None else ""

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Refuse a cache that keeps only what its teachers say together."""
        teacher = teacher_with_layers(self, teachers)
        if getattr(teacher, "hides_members", False):
            raise TeacherError(
                f"teachers.{teacher.name}: its cache keeps what the ensemble says, not what each "
                "member says; put a cache around each member instead"
            )
        return super().prepare(student, teachers, data, ctx)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"camkd": scalar}``; ``teacher.members`` are the teachers."""
        voices = torch.stack([one.logits for one in teacher.members or (teacher,)])
        value = functional.multi_teacher_kd(
            student.logits, voices, self._weights(voices, batch), temperature=self.temperature
        )
        return {"camkd": value / len(voices) if self.divide else value}

    def _weights(self, voices: Tensor, batch: Batch) -> Tensor:
        if self.shares is None:
            unknown = torch.full(voices.shape[1:-1], IGNORE, device=voices.device)
            targets = unknown if batch.targets is None else batch.targets
            return functional.teacher_confidence(voices, targets)
        if len(self.shares) != len(voices):
            raise MethodError(
                f"method.shares: {len(self.shares)} numbers for {len(voices)} teachers (camkd)"
            )
        shares = torch.tensor(self.shares, dtype=torch.float64, device=voices.device)
        return (shares / shares.sum()).view(-1, *[1] * (voices.dim() - 2)).expand(voices.shape[:-1])
