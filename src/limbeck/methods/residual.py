"""Residual distillation: a student mimics the teacher's features, an assistant learns the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError, ModelError
from limbeck.methods.base import Method, Runtime, Stage, Terms
from limbeck.methods.card import Card, Cost, Paper
from limbeck.methods.context import Context
from limbeck.methods.layers import heads_of
from limbeck.methods.registry import register_method
from limbeck.models.assistant import Phase, StudentAssistant, student_assistant_spec
from limbeck.models.calling import call_model
from limbeck.models.capacity import Split, split_capacity
from limbeck.taps import LinearHead, averaged_map
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("residual")
@dataclass(frozen=True, kw_only=True)
class Residual(Method):
    r"""Gao, Shen, Li and Loy (2020), after the abstract: a student, and an assistant for the rest.

    .. math:: d(f_S, f_T), \qquad d(f_A, \; f_T - \mathrm{sg}(f_S)), \qquad
              \hat y = h(f_S + f_A)

    The student's network is the budget: a narrower student S and a still narrower assistant A are
    cut out of it, which together have no more parameters and no more multiplications than it, what
    joins them included. S learns the task and the teacher's features; then S stands still, and A
    learns what is missing. What is deployed is both, as one network. Features are lifted into the
    teacher's space by linear maps, and h reads their sum.

    The abstract says this much. How S and A are made, which features, which distance and which
    phases is ours, and each a parameter.

    Helps where the student is much weaker than its teacher. A narrower network may lose more than
    the assistant gives back: compare with ``fitnet`` on the network as it is.

    Args:
        weight: weight of the student's term (1: ours).
        assistant_weight: weight of the assistant's term over that of the student's, at least 0.
        ratio: what the student costs over what the assistant does, above 0 (3: ours).
        level: "maps" compares the maps that the classifiers read averaged, "vectors" what they
            read; "auto": maps where all three networks have them.
        distance: "squared" mean squared error, or "normalised": of features divided by the length
            of the teacher's.
        student_epochs: epochs of the first phase, part of ``train.epochs``, at least 0; None: half
            of them; 0: both learn at once, to the end.
        joint_epochs: epochs at the end in which both learn, at least 0.
        head: "teacher" starts h from the teacher's classifier; "new" from random numbers.
    """

    weight: float = 1.0
    assistant_weight: float = 1.0
    ratio: float = 3.0
    level: Literal["auto", "maps", "vectors"] = "auto"
    distance: Literal["squared", "normalised"] = "squared"
    student_epochs: int | None = None
    joint_epochs: int = 0
    head: Literal["teacher", "new"] = "teacher"

    card: ClassVar[Card] = Card(
        title="Residual KD",
        paper=Paper(
            authors="Gao, Shen, Li, Loy",
            year=2020,
            title="Residual Knowledge Distillation",
            arxiv="2002.09168",
        ),
        equation="d(f_S, f_T); d(f_A, f_T - f_S), f_S fixed; both networks together answer",
        faithful="after the abstract",
        knowledge=("feature",),
        location=("intermediate",),
        transfer="squared error",
        timing="staged",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="head",
        deploys="grown",
        cost=Cost(student_steps=1.0),
        exempt={
            "zero_at_equality": "learned maps lift the features into the teacher's space",
            "gradient": "what the student misses is the assistant's target, and fixed in that term",
            "many_classes": "with so many classes a classifier of the teacher's features alone may "
            "cost more than the student's network, and no two fit into its cost",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.assistant_weight >= 0, "assistant_weight", "a number of at least 0")
        self.require(self.ratio > 0, "ratio", "a number above 0")
        self.require(self.level in ("auto", "maps", "vectors"), "level", "auto, maps or vectors")
        known = self.distance in ("squared", "normalised")
        self.require(known, "distance", "squared or normalised")
        whole = self.student_epochs is None or self.student_epochs >= 0
        self.require(whole, "student_epochs", "a whole number of at least 0, or none")
        self.require(self.joint_epochs >= 0, "joint_epochs", "a whole number of at least 0")
        self.require(self.head in ("teacher", "new"), "head", "teacher or new")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Cut student and assistant out of the network, or take the two that were given.

        Raises:
            MethodError: they cannot be cut out of it; features of another width were given; there
                are several students, whose phases the engine cannot tell one by one.
        """
        if ctx.num_members > 1:
            raise MethodError("method residual: trains one student in phases, not a cohort")
        ours, theirs = heads_of(self, student, teachers, ctx)
        call = ctx.forward or call_model
        assert ctx.example is not None
        example = ctx.example if ctx.forward else ctx.example.inputs
        if isinstance(student, StudentAssistant):
            both, split = student, None
            self._check_features(both, theirs)
        else:
            both, split = self._cut(student, ours, theirs, example, call)
        if self.head == "teacher":
            _copy_head(theirs, both.head)
        lifts = "lift_student", "lift_assistant"
        maps = [averaged_map(both, lift, example, call=call) for lift in lifts]
        whole = None not in (*maps, theirs.averaged)
        if self.level == "maps" and not whole:
            raise MethodError(
                "method.level: 'maps' needs classifiers that read the mean of a map over "
                "positions, which not all three networks have; set level: vectors"
            )
        taps: tuple[tuple[str, ...], str] = (lifts, f"{theirs.path}:in")
        if whole and self.level != "vectors":
            taps = (tuple(map(str, maps)), str(theirs.averaged))
        return ResidualRuntime(self, both, split, ours.path, taps)

    def _cut(
        self, student: nn.Module, ours: LinearHead, theirs: LinearHead, example: Any, call: Any
    ) -> tuple[StudentAssistant, Split]:
        outputs, features = (int(size) for size in theirs.weight.shape)
        try:
            return split_capacity(
                student,
                ratio=self.ratio,
                head=ours.path,
                features=features,
                num_classes=outputs,
                example=example,
                call=call,
            )
        except ModelError as error:
            raise MethodError(
                f"method residual: {error}; or build both yourself, and give them as the student: "
                "limbeck.models.StudentAssistant(student, assistant, heads=…, "
                f"features={features}, num_classes={outputs})"
            ) from error

    def _check_features(self, both: StudentAssistant, theirs: LinearHead) -> None:
        wanted = int(theirs.weight.shape[1])
        if both.head.in_features != wanted:
            raise MethodError(
                f"method residual: student and assistant add up in {both.head.in_features} "
                f"features, the teacher's classifier reads {wanted}: build them with "
                f"features={wanted}"
            )


def _copy_head(theirs: LinearHead, head: nn.Linear) -> None:
    with torch.no_grad():
        head.weight.copy_(theirs.weight)
        bias = getattr(theirs.module, "bias", None)
        head.bias.copy_(bias) if isinstance(bias, Tensor) else head.bias.zero_()


class ResidualRuntime(Runtime):
    """Residual distillation at work, phase by phase."""

    def __init__(
        self,
        method: Residual,
        both: StudentAssistant,
        split: Split | None,
        head: str,
        taps: tuple[tuple[str, ...], str],
    ) -> None:
        super().__init__(method, both)
        self.split, self.head, self.taps = split, head, taps

    def student_taps(self) -> tuple[str, ...]:
        """The student's layer and the assistant's."""
        return self.taps[0]

    def teacher_taps(self) -> tuple[str, ...]:
        """The layer that both add up to."""
        return (self.taps[1],)

    def stages(self, epochs: int) -> tuple[Stage, ...]:
        """The student, the assistant, and where it was asked for both; or nothing."""
        method = cast(Residual, self.method)
        first = epochs // 2 if method.student_epochs is None else method.student_epochs
        if not first:
            return ()
        stages = [
            Stage(name="student", epochs=first, gradient_everywhere=False),
            Stage(name="assistant", gradient_everywhere=False),
        ]
        if method.joint_epochs:
            stages.append(Stage(name="joint", epochs=method.joint_epochs))
        return tuple(stages)

    def batch(self, batch: Batch, ctx: Context) -> Batch:
        """Let the one learn whose phase it is."""
        alone = ctx.stage in ("student", "assistant")
        self._both.enter(cast(Phase, ctx.stage) if alone else "joint")
        return batch

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"mimic": scalar, "residual": scalar}``, those of the phase."""
        method, both = cast(Residual, self.method), self._both
        theirs = teacher.features[self.taps[1]]
        lifts = both.lift_student, both.lift_assistant
        ours, more = (
            self._lifted(student.features[tap], lift)
            for tap, lift in zip(self.taps[0], lifts, strict=True)
        )
        if theirs.ndim == 4:
            ours, theirs = functional.match_sizes(ours, theirs)
            more, _ = functional.match_sizes(more, theirs)
        scale = torch.ones(())
        if method.distance == "normalised":
            length = theirs.float().flatten(1).square().mean(1).sqrt().clamp_min(1e-12)
            scale = length.reshape(-1, *[1] * (theirs.ndim - 1)).to(theirs)
        terms = {}
        if both.phase != "assistant":
            terms["mimic"] = functional.hint(ours / scale, theirs / scale)
        if both.phase != "student":
            missing = theirs - ours.detach()
            value = functional.hint(more / scale, missing / scale)
            terms["residual"] = method.assistant_weight * value
        return terms

    def report(self) -> Mapping[str, float]:
        """What both cost together, over what the network cost that they come from."""
        if self.split is None:
            return {}
        return {
            "parameters": self.split.parameters / self.split.given_parameters,
            "flops": self.split.flops / max(self.split.given_flops, 1),
        }

    def deploy(self, student: nn.Module) -> nn.Module:
        """Return both as one network."""
        assert isinstance(student, StudentAssistant)
        student.enter("joint")
        return student

    def deployed_spec(
        self, spec: Mapping[str, Any] | None, student: nn.Module
    ) -> Mapping[str, Any] | None:
        """Return how to rebuild both from what describes the network that they come from."""
        if self.split is None or not spec or not spec.get("model") or not spec.get("input_shape"):
            return None
        features = self._both.head.in_features
        return student_assistant_spec(spec, self.split.shares, self.head, features)

    @property
    def _both(self) -> StudentAssistant:
        return cast(StudentAssistant, self.student)

    @staticmethod
    def _lifted(feature: Tensor, lift: nn.Linear) -> Tensor:
        """Return a map in the teacher's space; vectors were lifted on their way."""
        if feature.ndim == 2:
            return feature
        weight = lift.weight.to(feature.dtype)[:, :, None, None]
        bias = None if lift.bias is None else lift.bias.to(feature.dtype)
        return nn.functional.conv2d(feature, weight, bias)
