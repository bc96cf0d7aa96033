"""A student and its assistant as one network: two bodies, one feature, one classifier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.models.calling import Call, call_model
from limbeck.models.cohort import logits_of
from limbeck.models.narrow import narrowed

STUDENT_ASSISTANT = "student and assistant"
Phase = Literal["student", "assistant", "joint"]


class StudentAssistant(nn.Module):
    """Two networks whose last features add up in a common space, where one classifier reads them.

    ``head(lift_student(f_S) + lift_assistant(f_A))``, f the vectors that the networks' own
    classifiers read; those are taken away. The assistant says nothing at first: its lift starts
    at zero.

    Args:
        student: the larger network.
        assistant: the smaller one, which reads the same inputs.
        heads: paths of their classifiers, which have weights ``[outputs, features]``.
        features: width of the common space.
        num_classes: logits per sample.

    ``forward`` takes what the networks take, and returns logits ``[batch, num_classes]``.

    Attributes:
        phase: which of the two learns: "student" or "assistant" (the other stands still, batch
            statistics included), or "joint". It changes nothing about the answers in eval mode.
    """

    def __init__(
        self,
        student: nn.Module,
        assistant: nn.Module,
        *,
        heads: tuple[str, str],
        features: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.phase: Phase = "joint"
        widths = _take_away(student, heads[0]), _take_away(assistant, heads[1])
        self.student, self.assistant = student, assistant
        self.lift_student = nn.Linear(widths[0], features)
        self.lift_assistant = nn.Linear(widths[1], features, bias=False)
        self.head = nn.Linear(features, num_classes)
        nn.init.zeros_(self.lift_assistant.weight)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return logits ``[batch, num_classes]``."""
        inputs: Any = kwargs or (args[0] if len(args) == 1 else args)
        ours = self._said(self.student, self.lift_student, inputs, self.phase != "assistant")
        more = self._said(self.assistant, self.lift_assistant, inputs, self.phase != "student")
        logits: Tensor = self.head(ours + more)
        return logits

    def _said(self, body: nn.Module, lift: nn.Module, inputs: Any, learns: bool) -> Tensor:
        if learns or not self.training:
            lifted: Tensor = lift(logits_of(call_model(body, inputs)))
            return lifted
        with torch.no_grad():
            still: Tensor = lift(logits_of(call_model(body, inputs)))
        return still

    def enter(self, phase: Phase) -> None:
        """Let one of the two learn, or both."""
        if phase != self.phase:
            self.phase = phase
            self.train(self.training)

    def train(self, mode: bool = True) -> StudentAssistant:
        """Set training mode; whichever of the two stands still stays in eval mode."""
        super().train(mode)
        if mode and self.phase != "joint":
            still = self.assistant if self.phase == "student" else self.student
            still.eval()
        return self

    def roles(self) -> dict[str, list[str] | str]:
        """The student's layers, and the common classifier."""
        inner: dict[str, list[str] | str] = {
            role: [f"student.{path}" for path in paths]
            for role, paths in _roles_of(self.student).items()
            if isinstance(paths, list)
        }
        return {**inner, "penultimate": "head:in", "head": "head"}


def cut_in_two(
    given: nn.Module,
    shares: tuple[float, float],
    *,
    head: str,
    features: int,
    num_classes: int,
    example: Any,
    call: Call = call_model,
) -> StudentAssistant:
    """Return a student and an assistant that are cut out of one network, on its device.

    Args:
        given: the network; it is not changed.
        shares: of its channels, of the student (which keeps the first) and of the assistant (which
            keeps the last).
        head: path of its classifier.
        features: width of the common space.
        num_classes: logits per sample.
        example: inputs of at least one sample.
        call: ``call(given, example)`` where it is not called as ``given(example)``.

    Raises:
        ModelError: a narrower network cannot be cut out of it.
    """
    options: dict[str, Any] = {"head": head, "call": call}
    return StudentAssistant(
        narrowed(given, shares[0], example, **options),
        narrowed(given, shares[1], example, trailing=True, **options),
        heads=(head, head),
        features=features,
        num_classes=num_classes,
    ).to(next(given.parameters()).device)


def cut_again(
    given: nn.Module,
    *,
    shares: Sequence[float],
    head: str,
    features: int,
    num_classes: int,
    input_shape: Sequence[int],
) -> StudentAssistant:
    """Return what ``cut_in_two`` made of the network, where samples have that shape.

    Args:
        given: the network; it is not changed.
        shares: of its channels, of the student and of the assistant.
        head: path of its classifier.
        features: width of the common space.
        num_classes: logits per sample.
        input_shape: of one sample.
    """
    size = (2, *input_shape)
    # no two numbers alike: a layer that reads features of 0 must not be taken for one of an input
    example = torch.linspace(-1, 1, math.prod(size)).reshape(size)
    return cut_in_two(
        given,
        (shares[0], shares[1]),
        head=head,
        features=features,
        num_classes=num_classes,
        example=example,
    )


def student_assistant_spec(
    given: Mapping[str, Any], shares: tuple[float, float], head: str, features: int
) -> dict[str, Any]:
    """Return how to rebuild what was cut out of the network that ``given`` describes."""
    arguments = {
        "given": dict(given),
        "shares": list(shares),
        "head": head,
        "features": features,
    }
    shared = {key: given.get(key) for key in ("num_classes", "input_shape")}
    return {"model": STUDENT_ASSISTANT, "arguments": arguments, **shared}


def rebuild_student_assistant(spec: Mapping[str, Any], given: nn.Module) -> StudentAssistant:
    """Return the network of a ``student_assistant_spec``, ``given`` rebuilt from what is in it."""
    shared = {key: spec[key] for key in ("num_classes", "input_shape")}
    return cut_again(**{**spec["arguments"], "given": given}, **shared)


def _take_away(network: nn.Module, head: str) -> int:
    """Take a network's classifier away; return how many features it read."""
    module = network.get_submodule(head)
    weight = getattr(module, "weight", None)
    if not isinstance(module, nn.Linear) or not isinstance(weight, Tensor):
        raise ModelError(
            f"{type(network).__name__}: its classifier {head!r} is {type(module).__name__}, "
            "expected nn.Linear"
        )
    network.set_submodule(head, nn.Identity())
    return int(weight.shape[1])


def _roles_of(network: nn.Module) -> dict[str, list[str] | str]:
    from limbeck.taps import roles_of

    return roles_of(network)
