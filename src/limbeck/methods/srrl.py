"""SRRL: the teacher's classifier should say of the student's features what it says of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.last_layers import last_layers, teacher_head
from limbeck.methods.registry import register_method
from limbeck.taps import TapPair
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("srrl")
@dataclass(frozen=True, kw_only=True)
class SRRL(Method):
    r"""Yang et al. (2021): features that the teacher's classifier reads as it reads its own.

    .. math:: \mathrm{mean} \, (\overline{r(F_S)} - \overline{F_T})^2
              + \beta \, \mathrm{mean} \, (W_T \overline{r(F_S)} - z_T)^2

    A bar is the mean over positions. The connector r (1x1 convolution, batch norm, ReLU) is trained
    with the student and left behind; the teacher's classifier W is fixed.

    Args:
        weight: weight of both terms (1, beside a task weight of 1).
        pairs: "auto" takes the maps whose mean the classifiers read, or those vectors where one of
            the networks has no such maps (as the authors of SimKD run it); or one pair
            ``((student tap, teacher tap),)``.
        logits_weight: β, of the second term, at least 0 (1).
    """

    weight: float = 1.0
    pairs: str | tuple[Any, ...] = "auto"
    logits_weight: float = 1.0

    card: ClassVar[Card] = Card(
        title="SRRL",
        paper=Paper(
            authors="Yang, Martinez, Bulat, Tzimiropoulos",
            year=2021,
            title="Knowledge Distillation via Softmax Regression Representation Learning",
            venue="ICLR 2021",
        ),
        equation="mean (avg r(F_S) - avg F_T)² + β mean (W_T avg r(F_S) - z_T)²",
        knowledge=("feature", "response"),
        location=("intermediate", "output"),
        transfer="squared errors of mean features and of logits through the teacher's classifier",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="head",
        supervision="no labels",
        exempt={"zero_at_equality": "a learned connector stands between the layers"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.logits_weight >= 0, "logits_weight", "a number of at least 0")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the last layers; build the connector, and copy the teacher's classifier."""
        pair = last_layers(self, self.pairs, student, teachers, ctx)
        return SRRLRuntime(self, pair, teacher_head(self, teachers, pair.teacher_shape[1]))


class SRRLRuntime(Runtime):
    """SRRL at work: a connector that learns, and the teacher's classifier."""

    def __init__(self, method: SRRL, pair: TapPair, head: nn.Linear) -> None:
        super().__init__(method)
        self.pair, self.logits_weight = pair, method.logits_weight
        self.connector = make_connector(pair.student_shape[1], pair.teacher_shape[1])
        self.head = head

    def student_taps(self) -> tuple[str, ...]:
        """The student's last layer."""
        return (self.pair.student,)

    def teacher_taps(self) -> tuple[str, ...]:
        """The teacher's last layer."""
        return (self.pair.teacher,)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"srrl": scalar, "srrl_logits": scalar}``."""
        ours = self.connector(_as_maps(student.features[self.pair.student])).mean(dim=(2, 3))
        theirs = _as_maps(teacher.features[self.pair.teacher]).mean(dim=(2, 3))
        logits = self.head(ours)
        return {
            "srrl": functional.hint(ours, theirs),
            "srrl_logits": self.logits_weight * functional.hint(logits, teacher.logits),
        }


def make_connector(channels: int, out_channels: int) -> nn.Sequential:
    """Return a 1x1 convolution, batch norm and ReLU; He's start, fan out."""
    convolution = nn.Conv2d(channels, out_channels, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())


def _as_maps(feature: Tensor) -> Tensor:
    return feature[..., None, None] if feature.ndim == 2 else feature
