"""e²KD: the student's explanation of the teacher's answer should look like the teacher's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from limbeck import functional
from limbeck.data.batch import Batch, first_tensor
from limbeck.data.tokens import token_mask
from limbeck.methods.base import Method, Terms
from limbeck.methods.card import Card, Cost, Coupling, Paper
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.taps.explaining import EXPLAINERS, Explainer, make_explainer
from limbeck.taps.outputs import Outputs

EXPLAINED = ("top", "each")


@register_method("e2kd")
@dataclass(frozen=True, kw_only=True)
class E2KD(Method):
    r"""Parchami-Araghi, Böhle, Rao and Schiele (2024): KD, and explanations that agree.

    .. math:: \tau^2 \mathrm{KL}(p_T \| p_S) + \lambda \, (1 - \cos(E(T, x, y_T), E(S, x, y_T)))

    :math:`y_T` is the teacher's top class, right or wrong; both maps explain it. The student's map
    is differentiated through (second derivatives), so fused attention must not stand behind the
    layer that is explained, nor an activation in place directly.

    The paper explains ordinary networks by GradCAM and B-cos networks by their dynamic weights;
    input gradients are ours. GradCAM reads the ordinary pass; the two others run the student once
    more in the steps that explain, so that batch norms (but B-cos ones) count such a batch twice.

    What a step costs beyond KD is cut by ``every`` and by ``frozen`` maps.

    Args:
        weight: weight of both terms (1).
        lam: λ, weight of the explanation term inside, at least 0; 0 is plain KD to the bit.
        temperature: τ of the KD term, above 0.
        explainer: "gradcam", "input_gradient", or "bcos" for two B-cos networks.
        tap: the one layer that is explained, in the student; None: "stages[-1]" for GradCAM,
            "input" for input gradients, and the encoded pixels ("encode") for B-cos.
        teacher_tap: the same in the teacher; None: the student's.
        every: apply the explanation term in every k-th step only, at least 1; saves the
            second-order work.
        frozen: whether the teacher's map is one of its answers, which a cache keeps; in a cache
            with ``inputs: clean`` crop, flip and rotation move the kept map with the image.
        explained: "top": one map a sample, of the teacher's top class. "each", for several labels:
            one for each label that the teacher predicts (logit above 0), averaged over them; takes
            a gradient of each network for every label predicted in the batch.
        shuffled: the control: each sample gets the teacher's map of its neighbour in the batch.
            What helps as much with it does not come from explanations.
    """

    lam: float = 1.0
    temperature: float = 1.0
    explainer: Literal["gradcam", "input_gradient", "bcos"] = "gradcam"
    tap: str | None = None
    teacher_tap: str | None = None
    every: int = 1
    frozen: bool = False
    explained: Literal["top", "each"] = "top"
    shuffled: bool = False

    card: ClassVar[Card] = Card(
        title="e²KD",
        paper=Paper(
            authors="Parchami-Araghi, Böhle, Rao, Schiele",
            year=2024,
            title=("Good Teachers Explain: Explanation-Enhanced Knowledge Distillation"),
            venue="ECCV 2024",
            arxiv="2402.03119",
        ),
        equation="τ² KL(p_T ‖ p_S) + λ (1 - cos(E_T, E_S))",
        faithful="faithful",
        knowledge=("response", "explanation"),
        location=("output", "intermediate", "input"),
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
        self.require(self.explainer in EXPLAINERS, "explainer", f"one of {', '.join(EXPLAINERS)}")
        self.require(self.explained in EXPLAINED, "explained", f"one of {', '.join(EXPLAINED)}")
        one_map = not self.frozen or self.explained == "top"
        self.require(one_map, "explained", "'top' with frozen=true, which keeps one map a sample")

    @property
    def coupling(self) -> Coupling:
        """Shuffled maps are those of other samples of the batch."""
        return "batch" if self.shuffled else "none"

    @property
    def teacher_gradients(self) -> bool:
        """Whether the teacher is differentiated here: not if its map is an answer of its own."""
        return bool(self.lam) and not self.frozen

    def student_taps(self) -> tuple[str, ...]:
        """The layer that is explained, where an ordinary pass can be."""
        explains = self.lam and not self._ours.own_pass
        return (self._ours.tap,) if explains else ()

    def teacher_taps(self) -> tuple[str, ...]:
        """The same in the teacher, or its frozen map."""
        if not self.lam:
            return ()
        if self.frozen:
            return (self._theirs.name,)
        # a B-cos pass is in a mode of its own: the ordinary one would be taken for it
        return () if self.explainer == "bcos" else (self._theirs.tap,)

    @property
    def _ours(self) -> Explainer:
        return make_explainer(self.explainer, self.tap)

    @property
    def _theirs(self) -> Explainer:
        return make_explainer(self.explainer, self.teacher_tap or self.tap)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"kd": …, "explanation": λ · …}``; the latter where it is due."""
        form = functional.kd_multilabel if ctx.task == "multilabel" else functional.kd
        kd = form(student.logits, teacher.logits, temperature=self.temperature)
        if not self.lam or ctx.step % self.every:
            return {"kd": kd}
        if self._ours.own_pass:
            student = self._ours.pass_over(
                lambda taps: ctx.student(batch, taps=taps, require_grad=True)
            )
        if self.frozen:
            theirs = teacher.features[self._theirs.name]
            value = self._gap(student, theirs, teacher.logits.argmax(dim=1), batch)
            return {"kd": kd, "explanation": self.lam * value}
        asked = self._theirs.pass_over(
            lambda taps: ctx.teacher(batch, self.teacher, taps=taps, require_grad=True)
        )
        if self.explained == "each":
            value = self._each(student, asked, batch).mean()
        else:
            top = asked.logits.detach().argmax(dim=1)
            value = self._gap(student, self._theirs.map(asked, top, graph=False), top, batch)
        return {"kd": kd, "explanation": self.lam * value}

    def _gap(
        self,
        student: Outputs,
        theirs: Tensor,
        classes: Tensor,
        batch: Batch,
        reduction: Literal["batchmean", "none"] = "batchmean",
    ) -> Tensor:
        """Return 1 - cosine of the two maps of a class of each sample."""
        ours = self._ours.map(student, classes, graph=True)
        kept = token_mask(batch.inputs, theirs[..., None]) if theirs.ndim == 2 else None
        if kept is not None:  # padding explains nothing
            ours, theirs = ours * kept, theirs * kept
        theirs = theirs.roll(1, 0) if self.shuffled else theirs
        size = _map_size(batch, ours)
        gap: Tensor = functional.explanation_loss(ours, theirs, size=size, reduction=reduction)
        return gap

    def _each(self, student: Outputs, asked: Outputs, batch: Batch) -> Tensor:
        """Return the mean over the labels that the teacher predicts; 0 where it predicts none."""
        predicted = asked.logits.detach() > 0
        shares = predicted.to(student.logits.dtype)
        shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=1)
        total = torch.zeros_like(shares[:, 0])
        for label in predicted.any(dim=0).nonzero().flatten().tolist():
            classes = torch.full((len(predicted),), label, device=predicted.device)
            theirs = self._theirs.map(asked, classes, graph=False)
            gap = self._gap(student, theirs, classes, batch, "none")
            total = total + shares[:, label] * gap
        return total


def _map_size(batch: Batch, ours: Tensor) -> tuple[int, int] | None:
    """Size at which maps are compared: the input's for images; None for tokens of equal number."""
    inputs = first_tensor(batch.inputs)
    if ours.ndim >= 3 and inputs.ndim == 4:
        return int(inputs.shape[-2]), int(inputs.shape[-1])
    return None
