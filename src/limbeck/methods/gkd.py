"""GKD: how the student's answer hangs on each token should look like how the teacher's does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError, ShapeError
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Cost, Coupling, Paper
from limbeck.methods.context import Context
from limbeck.methods.layers import refuse_unlearned, teacher_with_layers
from limbeck.methods.registry import register_method
from limbeck.methods.still import restore_dropout, silence_dropout, take_over, thaw
from limbeck.models.calling import call_model
from limbeck.taps import resolve_taps, roles_of, tap_shapes
from limbeck.taps.outputs import Outputs
from limbeck.taps.slopes import as_rows, feature_at, row_mask, slopes_at

if TYPE_CHECKING:
    from limbeck.data import DataBundle

PAPER = Paper(
    authors="Wang, Li, Sun",
    year=2022,
    title="Gradient Knowledge Distillation for Pre-trained Language Models",
    venue="NeurIPS 2022 workshop ENLSP-II",
    arxiv="2211.01071",
)
INPUT = "input"


@dataclass(frozen=True, kw_only=True)
class Aligned(Method):
    """What GKD and GKD-CLS share; not a method by itself."""

    alpha: float = 0.5
    temperature: float = 5.0
    reduction: Literal["batchmean", "elementwise"] = "elementwise"
    tap: str = "auto"
    teacher_tap: str | None = None
    per_token: Literal["samples", "rows", "batchmean"] = "samples"
    embeddings: Literal["teacher", "own"] = "teacher"
    dropout: Literal["off", "encoder", "own"] = "off"

    teacher_gradients: ClassVar[bool] = True
    student_gradients: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.alpha >= 0, "alpha", "a number of at least 0")
        self.require(self.temperature > 0, "temperature", "a number above 0")
        known = self.reduction in ("batchmean", "elementwise")
        self.require(known, "reduction", "batchmean or elementwise")
        known = self.per_token in ("samples", "rows", "batchmean")
        self.require(known, "per_token", "samples, rows or batchmean")
        self.require(self.embeddings in ("teacher", "own"), "embeddings", "teacher or own")
        self.require(self.dropout in ("off", "encoder", "own"), "dropout", "off, encoder or own")

    @property
    def coupling(self) -> Coupling:
        """Whether a text's weight depends on how long the others of its batch are."""
        return "batch" if self.per_token == "rows" else "none"

    def soft(self, student: Outputs, teacher: Outputs) -> Tensor:
        """Return α times the KD term."""
        value: Tensor = functional.kd(
            student.logits,
            teacher.logits,
            temperature=self.temperature,
            reduction=self.reduction,
        )
        return self.alpha * value


@register_method("gkd")
@dataclass(frozen=True, kw_only=True)
class GKD(Aligned):
    r"""Wang, Li and Sun (2022): directions of the gradients at the embeddings, token by token.

    .. math:: \alpha \tau^2 \mathrm{KL}(p_T \| p_S) + \beta \sum_j \left\| u\!\left(
              \frac{\partial \max p_S}{\partial E_j} \right) - u\!\left(
              \frac{\partial \max p_T}{\partial E_j} \right) \right\|^2,\; u(v) = v / \|v\|

    Each network explains its own top class. The student's embeddings are the teacher's, frozen,
    so that both gradients live in one space; and nothing is dropped in the student, since dropout
    biases a gradient. The gradient is taken of the log-odds of the top class: the same direction,
    which stays where the softmax is saturated. Padding does not count. On inputs that are numbers
    it is Jacobian matching of the top probability, up to length.

    Args:
        weight: scales both terms (1, beside a task weight of 0.5, which is 1 - α).
        alpha: α, at least 0; the paper searched 0.2, 0.5 and 0.7.
        beta: β, at least 0; searched 0.05, 0.1, 0.2 and 0.4. 0 is KD, to the bit with ``embeddings:
            own`` and ``dropout: own``.
        temperature: τ, above 0; searched 5, 10 and 20.
        reduction: of the KD term: "elementwise", the authors' code, which their α and τ belong to;
            or the paper's "batchmean".
        tap: where gradients are taken: "auto" is what the first block of a transformers network
            reads, and the input of any other network.
        teacher_tap: the same in the teacher; None: the student's.
        per_token: "samples" averages a text's tokens, then the texts (ours: the same however a step
            is cut); "rows" averages all tokens of a batch, as the authors' code does; "batchmean"
            sums over a text's tokens, as the paper writes.
        embeddings: "teacher" copies the tapped module and freezes it until the student is deployed;
            "own" leaves the student's. The input has nothing to copy.
        dropout: "off"; "encoder" keeps all but that inside the tapped module, which is the paper's
            ablation; "own" keeps all.
        match: "direction"; or a control, "norm": the squared norm of the student's own gradient of
            its top probability, without a teacher, summed over tokens.
    """

    beta: float = 0.1
    match: Literal["direction", "norm"] = "direction"

    card: ClassVar[Card] = Card(
        title="GKD (gradients)",
        paper=PAPER,
        equation="α τ² KL(p_T ‖ p_S) + β Σ_j ‖u(∂max p_S/∂E_j) - u(∂max p_T/∂E_j)‖²",
        knowledge=("response", "gradient"),
        location=("output", "input"),
        transfer="KL divergence and squared distance of gradients' directions",
        task_weight=0.5,
        teacher_access="features",
        double_backward=True,
        cost=Cost(teacher_forwards=3.0, student_steps=2.0),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.beta >= 0, "beta", "a number of at least 0")
        self.require(self.match in ("direction", "norm"), "match", "direction or norm")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Find the embeddings; copy and freeze them, and switch dropout off, where it is said."""
        return AlignedRuntime(self, student, teachers, data, ctx)


class AlignedRuntime(Runtime):
    """GKD at work: where gradients are taken, and what must be put back when it is deployed."""

    def __init__(
        self,
        method: Aligned,
        student: nn.Module,
        teachers: Mapping[str, Any],
        data: DataBundle | None,
        ctx: Context,
    ) -> None:
        super().__init__(method)
        teacher = teacher_with_layers(method, teachers)
        if teacher.module is None or ctx.example is None:
            raise MethodError(
                f"method {method.name}: teacher {teacher.name!r} has no network to differentiate; "
                "use a live one"
            )
        self.tap = _tap_of(student, method.tap)
        self.its_tap = _tap_of(teacher.module, method.teacher_tap or method.tap)
        self._compare_shapes(student, teacher, ctx)
        moved = teacher.reads(data) if self.its_tap == INPUT and data is not None else ""
        if moved:
            raise MethodError(
                f"method {method.name}: gradients at the input cannot be compared, as teacher "
                f"{teacher.name!r} reads other inputs than the student ({moved}); name a "
                "layer (tap)"
            )
        self.frozen: list[str] = []
        if method.embeddings == "teacher" and INPUT not in (self.tap, self.its_tap):
            ((ours,), (theirs,)) = (
                resolve_taps(network, tap)
                for network, tap in ((student, self.tap), (teacher.module, self.its_tap))
            )
            refuse_unlearned(method.name, teacher, "copies its teacher's embeddings")
            self.frozen = take_over(method.name, student, ours.path, teacher.module, theirs.path)
        inside = "" if self.tap == INPUT else resolve_taps(student, self.tap)[0].path
        self.silenced = []
        if method.dropout == "off":
            self.silenced = silence_dropout(student)
        elif method.dropout == "encoder" and inside:
            self.silenced = silence_dropout(student, inside)

    def _compare_shapes(self, student: nn.Module, teacher: Any, ctx: Context) -> None:
        assert ctx.example is not None
        seen = ctx.example.replace(inputs=teacher.inputs_of(ctx.example), teacher_inputs=None)
        ours = tap_shapes(
            student,
            self.tap,
            ctx.example if ctx.forward else ctx.example.inputs,
            call=ctx.forward or call_model,
        )
        theirs = tap_shapes(
            teacher.module,
            self.its_tap,
            seen if teacher.forward else seen.inputs,
            call=teacher.forward or call_model,
        )
        for tap, found in ((self.tap, ours), (self.its_tap, theirs)):
            if len(found) != 1:
                raise MethodError(
                    f"method.tap: expected one layer, {tap!r} stands for "
                    f"{', '.join(found) or 'none'} ({self.method.name})"
                )
        (shape,), (its) = ours.values(), next(iter(theirs.values()))
        if shape != its:
            raise ShapeError(
                f"method {self.method.name}: gradients live in one space, but student tap "
                f"{self.tap!r} is {list(shape)} and teacher tap {self.its_tap!r} {list(its)}; "
                "give the student the teacher's width, or name layers of the same shape (tap, "
                "teacher_tap)"
            )

    def student_taps(self) -> tuple[str, ...]:
        """Where the student is differentiated; nowhere with β = 0."""
        return (self.tap,) if cast(GKD, self.method).beta else ()

    def teacher_taps(self) -> tuple[str, ...]:
        """Where the teacher is differentiated."""
        method = cast(GKD, self.method)
        return (self.its_tap,) if method.beta and method.match == "direction" else ()

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"kd": α · …, "gkd": β · …}``."""
        method = cast(GKD, self.method)
        terms = {"kd": method.soft(student, teacher)}
        if not method.beta:
            return terms
        if method.match == "norm":
            return terms | {"gradient_norm": method.beta * self._norm(student)}
        heard = ctx.teacher(batch, method.teacher, taps=self.teacher_taps(), require_grad=True)
        (ours,) = slopes_at(student, self.student_taps(), graph=True)
        (theirs,) = slopes_at(heard, self.teacher_taps(), graph=False)
        return terms | {"gkd": method.beta * self.distance(ours, theirs, batch)}

    def distance(self, ours: Tensor, theirs: Tensor, batch: Batch) -> Tensor:
        """Return L_GKD of the gradients at the embeddings."""
        value: Tensor = functional.direction_distance(
            as_rows(ours),
            as_rows(theirs),
            row_mask(batch.inputs, ours),
            reduction=cast(Aligned, self.method).per_token,
        )
        return value

    def _norm(self, student: Outputs) -> Tensor:
        """Squared norm of the gradient of each sample's top probability, a mean over samples."""
        feature_at(student, self.tap)
        top = student.logits.softmax(dim=1).amax(dim=1)
        (slope,) = slopes_at(student, self.student_taps(), graph=True, of=top)
        return slope.flatten(1).square().sum(dim=1).mean()

    def deploy(self, student: nn.Module) -> nn.Module:
        """Give the student its dropout back, and let its embeddings learn again."""
        restore_dropout(student, self.silenced)
        thaw(student, self.frozen)
        return student


def _tap_of(network: nn.Module, tap: str) -> str:
    if tap != "auto":
        return tap
    return "embeddings" if "embeddings" in roles_of(network) else INPUT


def first_tokens(values: list[Tensor]) -> Tensor:
    """Return ``[batch, layers, width]``: what stands at the first token of each layer.

    Layers without tokens count whole; shorter ones are filled up with zeros, which add nothing.
    """
    rows = [one[:, 0] if one.dim() == 3 else one.flatten(1) for one in values]
    width = max(one.shape[1] for one in rows)
    return torch.stack([nn.functional.pad(one, (0, width - one.shape[1])) for one in rows], dim=1)
