"""GKD-CLS: gradients also at the first token of the layers, and those tokens' states themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from torch import nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError, ShapeError
from limbeck.methods.base import Runtime, Terms
from limbeck.methods.card import Card, Cost
from limbeck.methods.context import Context
from limbeck.methods.gkd import PAPER, Aligned, AlignedRuntime, first_tokens
from limbeck.methods.layers import find_pairs, teacher_with_layers
from limbeck.methods.registry import register_method
from limbeck.taps import roles_of
from limbeck.taps.outputs import Outputs
from limbeck.taps.slopes import feature_at, slopes_at

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("gkd_cls")
@dataclass(frozen=True, kw_only=True)
class GKDCLS(Aligned):
    r"""Wang, Li and Sun (2022): GKD with the first token ([CLS]) of mapped layers.

    .. math:: \alpha \tau^2 \mathrm{KL}(p_T \| p_S) + \beta L_{PKD} + \gamma (L_{GKD} + L_{CLS})

    L_PKD compares the directions of the first token's states, L_CLS those of the gradients there.
    For networks that classify by their first token; layers must have the teacher's width.

    Args:
        weight: scales all terms (1, beside a task weight of 0.5, which is 1 - α).
        alpha: weight of the KL term, at least 0 (the paper searched 0.2, 0.5 and 0.7 for GKD).
        temperature: τ of the KL term, above 0.
        reduction: of the KL term: "elementwise", the authors' code, which their α and τ belong to;
            or the paper's "batchmean".
        tap: the student's word embeddings: "auto" is what the first block of a transformers network
            reads, and the input of any other network.
        teacher_tap: the teacher's; None: the student's.
        per_token: "samples" averages a text's tokens, then the texts (ours); "rows" averages all
            tokens of a batch, as the authors' code does; "batchmean" sums over a text's tokens, as
            the paper writes.
        embeddings: "teacher" copies the tapped module and freezes it until the student is deployed;
            "own" leaves the student's.
        dropout: of the student while it learns: "off"; "encoder" keeps all but that inside the
            tapped module; "own" keeps all.
        beta: β of L_PKD, which is averaged over its numbers as in the authors' code, at least 0;
            the paper's 500. 0: without.
        gamma: γ, at least 0; the paper searched 0.02, 0.05, 0.1 and 0.2. β = γ = 0 is KD, as in
            GKD.
        pairs: "skip": all layers but the last, each with the one at the same depth of the teacher
            (1 to 5 of 6 with 2, 4, 6, 8, 10 of 12); or ``((student tap, teacher tap), …)``.
        embedding_gradients: whether L_GKD counts; the paper's DistilBERT has L_CLS alone.
    """

    beta: float = 500.0
    gamma: float = 0.05
    pairs: str | tuple[Any, ...] = "skip"
    embedding_gradients: bool = True

    card: ClassVar[Card] = Card(
        title="GKD-CLS",
        paper=PAPER,
        equation="α τ² KL(p_T ‖ p_S) + β Σ_l ‖u(h_S) - u(h_T)‖² + γ (L_GKD + Σ_l ‖u(∂max p_S/∂h_S)"
        " - u(∂max p_T/∂h_T)‖²)",
        knowledge=("response", "feature", "gradient"),
        location=("output", "intermediate", "input"),
        transfer="KL divergence and squared distance of directions",
        task_weight=0.5,
        teacher_access="features",
        double_backward=True,
        same_widths=True,
        cost=Cost(teacher_forwards=3.0, student_steps=2.0),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.beta >= 0, "beta", "a number of at least 0")
        self.require(self.gamma >= 0, "gamma", "a number of at least 0")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the layers; the rest as in GKD."""
        return CLSRuntime(self, student, teachers, data, ctx)


class CLSRuntime(AlignedRuntime):
    """GKD-CLS at work: which layers are held together."""

    def __init__(
        self,
        method: GKDCLS,
        student: nn.Module,
        teachers: Mapping[str, Any],
        data: DataBundle | None,
        ctx: Context,
    ) -> None:
        super().__init__(method, student, teachers, data, ctx)
        teacher = teacher_with_layers(method, teachers)
        wanted: Any = method.pairs
        if wanted == "skip":
            wanted = skip_pairs(method.name, student, teacher.module)
        pairs = find_pairs(method, wanted, student, teachers, ctx)
        for pair in pairs:
            ours, theirs = pair.student_shape, pair.teacher_shape
            if ours[1:] != theirs[1:] and (len(ours) != 3 or ours[2:] != theirs[2:]):
                raise ShapeError(
                    f"method {method.name}: student tap {pair.student!r} {list(ours)} and teacher "
                    f"tap {pair.teacher!r} {list(theirs)}: needs layers of the same width; give "
                    "the student the teacher's, or name others (pairs)"
                )
        self.layers = tuple(pair.student for pair in pairs)
        self.its_layers = tuple(pair.teacher for pair in pairs)

    def student_taps(self) -> tuple[str, ...]:
        """The embeddings and the layers; nothing with β = γ = 0."""
        return self._wanted(self.tap, self.layers)

    def teacher_taps(self) -> tuple[str, ...]:
        """The same in the teacher."""
        return self._wanted(self.its_tap, self.its_layers)

    def _wanted(self, tap: str, layers: tuple[str, ...]) -> tuple[str, ...]:
        method = cast(GKDCLS, self.method)
        embeddings = (tap,) if method.gamma and method.embedding_gradients else ()
        return (*embeddings, *layers) if method.beta or method.gamma else ()

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"kd": α · …, "patient": β · …, "gkd": γ · …, "gkd_cls": γ · …}``."""
        method = cast(GKDCLS, self.method)
        terms = {"kd": method.soft(student, teacher)}
        if not method.beta and not method.gamma:
            return terms
        heard = ctx.teacher(batch, method.teacher, taps=self.teacher_taps(), require_grad=True)
        if method.beta:
            ours = first_tokens([feature_at(student, tap) for tap in self.layers])
            theirs = first_tokens([feature_at(heard, tap) for tap in self.its_layers])
            patient = functional.direction_distance(ours, theirs, reduction="elementwise")
            terms["patient"] = method.beta * patient
        if not method.gamma:
            return terms
        slopes = slopes_at(student, self.student_taps(), graph=True)
        its_slopes = slopes_at(heard, self.teacher_taps(), graph=False)
        if method.embedding_gradients:
            terms["gkd"] = method.gamma * self.distance(slopes.pop(0), its_slopes.pop(0), batch)
        apart = functional.direction_distance(
            first_tokens(slopes), first_tokens(its_slopes), reduction="batchmean"
        )
        return terms | {"gkd_cls": method.gamma * apart}


def skip_pairs(name: str, student: nn.Module, teacher: nn.Module) -> tuple[tuple[str, str], ...]:
    """Return all stages of the student but the last, with those at the same depth of the teacher.

    Raises:
        MethodError: a network does not say what its stages are, or the student has one only.
    """
    ours, theirs = (roles_of(network).get("stages", ()) for network in (student, teacher))
    if len(ours) < 2 or len(theirs) < len(ours):
        raise MethodError(
            f"method {name}: pairs: skip needs a student of two stages or more and a teacher of as "
            f"many at least, got {len(ours)} and {len(theirs)}; name layers (pairs)"
        )
    depths = [(place, place * len(theirs) // len(ours)) for place in range(1, len(ours))]
    return tuple((f"stages.{i - 1}", f"stages.{j - 1}") for i, j in depths)
