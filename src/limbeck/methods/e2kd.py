"""e²KD: the student's explanation of the teacher's answer should look like the teacher's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from limbeck import functional
from limbeck.data.batch import Batch, first_tensor
from limbeck.data.tokens import token_mask
from limbeck.errors import MethodError
from limbeck.methods.base import Method, Terms
from limbeck.methods.card import Card, Cost, Paper
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.taps.outputs import Outputs


@register_method("e2kd")
@dataclass(frozen=True, kw_only=True)
class E2KD(Method):
    r"""Parchami-Araghi, Böhle, Rao and Schiele (2024), with GradCAM as the explanation.

    The paper's explanations of B-cos networks, and those computed once and stored, are left out.

    .. math:: \tau^2 \mathrm{KL}(p_T \| p_S) + \lambda \, (1 - \cos(E(T, x, y_T), E(S, x, y_T)))

    :math:`y_T` is the teacher's top class, right or wrong; both maps explain it. The student's map
    is differentiated through (second derivatives), so in-place ReLUs and fused attention must not
    stand behind the tapped layer.

    Args:
        weight: weight of both terms (1).
        lam: λ, weight of the explanation term inside; 0 is plain KD to the bit.
        temperature: τ of the KD term, above 0.
        tap: the one layer whose features GradCAM weighs, in the student.
        teacher_tap: the same in the teacher; None: the student's ``tap``.
        every: apply the explanation term in every k-th step only; saves the second-order work.
    """

    lam: float = 1.0
    temperature: float = 1.0
    tap: str = "stages[-1]"
    teacher_tap: str | None = None
    every: int = 1

    teacher_gradients: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        title="e²KD",
        paper=Paper(
            authors="Parchami-Araghi, Böhle, Rao, Schiele",
            year=2024,
            title=("Good Teachers Explain: Explanation-Enhanced Knowledge Distillation"),
            venue="ECCV 2024",
            arxiv="2402.03119",
        ),
        equation="τ² KL(p_T ‖ p_S) + λ (1 - cos(GradCAM_T, GradCAM_S))",
        faithful="faithful in part",
        knowledge=("response", "explanation"),
        location=("output", "intermediate"),
        transfer="KL divergence and cosine of explanation maps",
        supervision="no labels",
        tasks=("classification", "multilabel"),
        task_weight=0.0,
        teacher_access="features",
        double_backward=True,
        cost=Cost(teacher_forwards=1.0, student_steps=1.5),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.lam >= 0, "lam", "a number of at least 0")
        self.require(self.temperature > 0, "temperature", "a number above 0")
        self.require(self.every >= 1, "every", "a whole number of at least 1")

    def student_taps(self) -> tuple[str, ...]:
        """The layer that GradCAM weighs."""
        return (self.tap,) if self.lam else ()

    def teacher_taps(self) -> tuple[str, ...]:
        """The teacher's layer that GradCAM weighs."""
        return (self.teacher_tap or self.tap,) if self.lam else ()

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"kd": …, "explanation": λ · …}``; the latter where it is due."""
        form = functional.kd_multilabel if ctx.task == "multilabel" else functional.kd
        kd = form(student.logits, teacher.logits, temperature=self.temperature)
        if not self.lam or ctx.step % self.every:
            return {"kd": kd}
        asked = ctx.teacher(batch, self.teacher, taps=self.teacher_taps(), require_grad=True)
        explained = asked.logits.detach().argmax(dim=1)
        theirs = gradcam_of(asked, self._name(asked, self.teacher_taps()), explained, graph=False)
        ours = gradcam_of(student, self._name(student, self.student_taps()), explained, graph=True)
        kept = token_mask(batch.inputs, asked.features[self._name(asked, self.teacher_taps())])
        if kept is not None:  # padding explains nothing
            ours, theirs = ours * kept, theirs * kept
        size = _map_size(batch, ours, theirs)
        value = functional.explanation_loss(ours, theirs, size=size)
        return {"kd": kd, "explanation": self.lam * value}

    def _name(self, outputs: Outputs, taps: tuple[str, ...]) -> str:
        """Key of the tapped feature: the tap itself, which must name one layer."""
        if taps[0] not in outputs.features:
            found = ", ".join(outputs.features) or "nothing"
            raise MethodError(
                f"method e2kd: tap {taps[0]!r} must name one layer, such as 'stages[-1]'; "
                f"it stands for {found}"
            )
        return taps[0]


def gradcam_of(outputs: Outputs, tap: str, classes: Tensor, *, graph: bool) -> Tensor:
    """Return the GradCAM map of a class of each sample.

    Args:
        outputs: logits with a graph back to the tapped feature.
        tap: name of the feature, ``[batch, channels, height, width]``.
        classes: int64 ``[batch]``, the class to explain.
        graph: whether the map can be differentiated through.

    Returns:
        ``[batch, height, width]``, not negative.
    """
    feature = outputs.features[tap]
    explained = outputs.logits.gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(explained, feature, create_graph=graph, retain_graph=True)
    cam: Tensor = functional.gradcam(feature, gradient)
    return cam if graph else cam.detach()


def _map_size(batch: Batch, ours: Tensor, theirs: Tensor) -> tuple[int, int] | None:
    """Size at which maps are compared: the input's for images; None for tokens of equal number."""
    inputs = first_tensor(batch.inputs)
    if ours.ndim == 3 and inputs.ndim == 4:
        return int(inputs.shape[-2]), int(inputs.shape[-1])
    return None
