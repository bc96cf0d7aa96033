"""DeiT: a token and a head of their own learn from the teacher, the others from the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card
from limbeck.methods.context import Context
from limbeck.methods.kd_hard import DEIT
from limbeck.methods.registry import register_method
from limbeck.methods.supervised import labels_of
from limbeck.taps import unwrap
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("deit")
@dataclass(frozen=True, kw_only=True)
class DeiT(Method):
    r"""Touvron et al. (2021): distillation through attention.

    .. math:: \mathrm{CE}(y, \sigma(z_{class})) \text{ and } \mathrm{CE}(\arg\max z_T,
              \sigma(z_{distil}))

    The student has two heads, on a class token and on a distillation token, and answers with the
    mean of their logits, as it is deployed: ``{model: vit, distilled: true}``, timm's
    ``deit_*_distilled_*``, or any network with two such modules. Samples without a label teach the
    second head.

    Args:
        weight: weight of the distillation head's term (1/2, beside a task weight of 1/2 for the
            class head).
        heads: the modules that give the logits of the class head and of the distillation head.
        form: "hard": the teacher's first choice as a label; "soft": T² KL.
        temperature: softening of both outputs where ``form`` is "soft", above 0.
        reduction: of the KL: "batchmean", or "elementwise" as the authors' code has it, which makes
            the term C times smaller.
    """

    weight: float = 0.5
    heads: tuple[str, str] = ("head", "head_dist")
    form: Literal["hard", "soft"] = "hard"
    temperature: float = 1.0
    reduction: Literal["batchmean", "elementwise"] = "batchmean"

    card: ClassVar[Card] = Card(
        title="DeiT",
        paper=DEIT,
        equation="CE(y, softmax(z_class)), CE(argmax z_T, softmax(z_distil)); logits: their mean",
        transfer="cross-entropy of a second head with the teacher's first choice",
        supervision="labels",
        task_weight=0.5,
        replaces_task=True,
        exempt={
            "zero_at_equality": "the second head learns, not the logits that are compared; and a "
            "first choice is a label"
        },
    )

    example_student: ClassVar[Mapping[str, Any]] = {
        "model": "vit",
        "patch": 2,
        "dim": 48,
        "depth": 4,
        "distilled": True,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        two = isinstance(self.heads, tuple) and len(set(self.heads)) == 2
        self.require(two, "heads", "the paths of two modules, class head first")
        self.require(self.form in ("hard", "soft"), "form", "hard or soft")
        self.require(self.temperature > 0, "temperature", "a number above 0")
        self.require(
            self.reduction in ("batchmean", "elementwise"), "reduction", "batchmean or elementwise"
        )

    def student_taps(self) -> tuple[str, ...]:
        """The two heads' logits."""
        return tuple(f".{path}" for path in self.heads)  # the modules, whatever role they have

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Refuse a student without the two heads."""
        modules = dict(unwrap(student).named_modules())
        for path in self.heads:
            if path not in modules:
                raise MethodError(
                    f"method deit: the student ({type(unwrap(student)).__name__}) has no head "
                    f"{path!r}; it needs a class head and a distillation head: student: "
                    "{model: vit, distilled: true}, a timm deit_*_distilled_*, or method.heads"
                )
        return super().prepare(student, teachers, data, ctx)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"deit": scalar}``, of the distillation head."""
        ours = self._logits(student, 1)
        if self.form == "hard":
            return {"deit": functional.kd_hard(ours, teacher.logits)}
        value = functional.kd(
            ours, teacher.logits, temperature=self.temperature, reduction=self.reduction
        )
        return {"deit": value}

    def task_loss(self, student: Outputs, batch: Batch, ctx: Context) -> Tensor:
        """Return the cross-entropy of the class head with the labels."""
        return functional.cross_entropy(self._logits(student, 0), labels_of(batch, self.name))

    def _logits(self, student: Outputs, which: int) -> Tensor:
        tap = self.student_taps()[which]
        if tap not in student.features:
            raise MethodError(
                "method deit: needs what each of the student's two heads says, as features "
                f"{', '.join(map(repr, self.student_taps()))}; got {list(student.features)}"
            )
        return student.features[tap]
