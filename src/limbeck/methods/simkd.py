"""SimKD: the student gets the teacher's classifier, and learns the features that it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import ShapeError
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.last_layers import last_layers, student_head, teacher_head
from limbeck.methods.registry import register_method
from limbeck.models.calling import call_model
from limbeck.models.grown import graft, grown_spec
from limbeck.models.reused import Reprojection
from limbeck.taps import TapPair, as_outputs, resolve_taps
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("simkd")
@dataclass(frozen=True, kw_only=True)
class SimKD(Method):
    r"""Chen et al. (2022): reuse the teacher's classifier; only features are learned.

    .. math:: \mathrm{mean} \, (P(F_S) - F_T)^2

    A projector P behind the student's last maps brings them to the teacher's; then come the
    student's own average pooling and a fixed copy of the teacher's classifier, in the place of the
    student's. All of it is the deployed student. By default this term is all there is: the task
    has weight 0, and labels are not used.

    Args:
        weight: weight of the term (1).
        pairs: "auto" takes the maps whose mean the classifiers read, or those vectors where one of
            the networks has no such maps (ours); or one pair ``((student tap, teacher tap),)``.
        factor: the projector's middle has the teacher's channels divided by this, at least 1 (2;
            the authors also give 4 and 8: smaller and somewhat worse).
    """

    weight: float = 1.0
    pairs: str | tuple[Any, ...] = "auto"
    factor: int = 2

    card: ClassVar[Card] = Card(
        title="SimKD",
        paper=Paper(
            authors="Chen, Mei, Zhang, Wang, Feng, Chen",
            year=2022,
            title="Knowledge Distillation with the Reused Teacher Classifier",
            venue="CVPR 2022",
            arxiv="2203.14001",
        ),
        equation="mean (P(F_S) - F_T)²",
        knowledge=("feature", "parameter"),
        location=("intermediate",),
        transfer="squared error; the teacher's classifier",
        tasks=("classification", "multilabel", "regression"),
        task_weight=0.0,
        min_classes=1,
        teacher_access="head",
        deploys="grown",
        supervision="no labels",
        exempt={"zero_at_equality": "a learned projector stands between the layers"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.factor >= 1, "factor", "a whole number of at least 1")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Put the projector behind the last layer, and the teacher's classifier at the end.

        Raises:
            ShapeError: the student's way from its last maps to its classifier takes no other width.
        """
        pair = last_layers(self, self.pairs, student, teachers, ctx)
        head = teacher_head(self, teachers, pair.teacher_shape[1])
        runtime = SimKDRuntime(self, pair, student, student_head(self, student, ctx), head)
        assert ctx.example is not None
        try:
            said = as_outputs(
                ctx.forward(student, ctx.example)
                if ctx.forward
                else call_model(student, ctx.example.inputs)
            ).logits
        except RuntimeError as error:
            raise ShapeError(
                f"method {self.name}: what stands between the student's {pair.student!r} and its "
                f"classifier does not take the teacher's {pair.teacher_shape[1]} channels; name "
                "the vectors that the classifiers read (pairs: penultimate)"
            ) from error
        assert said.shape[-1] == head.out_features
        return runtime


class SimKDRuntime(Runtime):
    """SimKD at work: projector and classifier are the student's own."""

    def __init__(
        self, method: SimKD, pair: TapPair, student: nn.Module, head_path: str, head: nn.Linear
    ) -> None:
        super().__init__(method, student)
        self.pair = pair
        sizes = zip(pair.student_shape[2:], pair.teacher_shape[2:], strict=True)
        self.size = [min(both) for both in sizes]
        (tap,) = resolve_taps(student, pair.student)
        shrinks = self.size and self.size != list(pair.student_shape[2:])
        reprojection: dict[str, Any] = {
            "channels": pair.student_shape[1],
            "out_channels": pair.teacher_shape[1],
            "factor": method.factor,
            "size": self.size if shrinks else None,
        }
        linear = {
            "in_features": head.in_features,
            "out_features": head.out_features,
            "bias": head.bias is not None,
        }
        like = next(student.parameters(), torch.empty(0))
        self.parts: Sequence[Mapping[str, Any]] = (
            {"at": head_path, "side": "instead", "part": "linear", "arguments": linear},
            {
                "at": tap.path,
                "side": tap.side,
                "part": "reprojection",
                "arguments": reprojection,
            },
        )
        graft(student, head_path, head.to(like.device, like.dtype), "instead")
        projector = Reprojection(**reprojection).to(like.device, like.dtype)
        self._tap = graft(student, tap.path, projector, tap.side)

    def student_taps(self) -> tuple[str, ...]:
        """What the projector makes of the student's last layer."""
        return (self._tap,)

    def teacher_taps(self) -> tuple[str, ...]:
        """The teacher's last layer."""
        return (self.pair.teacher,)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"simkd": scalar}``."""
        theirs = teacher.features[self.pair.teacher].detach()
        if theirs.ndim == 4 and list(theirs.shape[2:]) != self.size:
            height, width = self.size
            theirs = functional.average_pool(theirs, size=(height, width))
        return {"simkd": functional.hint(student.features[self._tap], theirs)}

    def deployed_spec(
        self, spec: Mapping[str, Any] | None, student: nn.Module
    ) -> Mapping[str, Any] | None:
        """Return how to rebuild the student with projector and classifier."""
        return grown_spec(spec, self.parts)

    def report(self) -> Mapping[str, float]:
        """How wide the projector's middle is."""
        width = max(self.pair.teacher_shape[1] // cast(SimKD, self.method).factor, 1)
        return {"middle": float(width)}
