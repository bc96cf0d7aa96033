"""How to divide what one network may cost between two that are cut out of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from limbeck.errors import ModelError
from limbeck.models.assistant import StudentAssistant, cut_in_two
from limbeck.models.calling import Call, call_model
from limbeck.models.cost import count_parameters, flops_on

STEPS = 64
"""Sizes that are told apart: the pair's channels go up in steps of a 64th."""


@dataclass(frozen=True)
class Split:
    """What a student and its assistant cost, and what the network cost that they come from.

    Attributes:
        shares: of the channels, the student's and the assistant's.
        parameters: of both together, lifts and classifier included.
        flops: of both together, on the example.
        given_parameters: of the network they are cut out of.
        given_flops: likewise.
    """

    shares: tuple[float, float]
    parameters: int
    flops: int
    given_parameters: int
    given_flops: int


def split_capacity(
    given: nn.Module,
    *,
    ratio: float,
    head: str,
    features: int,
    num_classes: int,
    example: Any,
    call: Call = call_model,
) -> tuple[StudentAssistant, Split]:
    """Cut the largest student and assistant out of a network that together cost no more than it.

    Neither parameters nor floating-point operations exceed the network's, with all that joins the
    two counted. Cost goes with the square of width: of widths ``√(ratio) : 1`` the student costs
    about ``ratio`` times what the assistant does.

    Args:
        given: the network; it is not changed.
        ratio: cost of the student over that of the assistant, above 0.
        head: path of its classifier.
        features: width of the space where the two add up.
        num_classes: logits per sample.
        example: inputs of at least one sample.
        call: ``call(given, example)`` where it is not called as ``given(example)``.

    Raises:
        ModelError: none can be cut out of it, or none is small enough.
    """
    parameters, flops = count_parameters(given), flops_on(given, example, call)
    both = math.hypot(math.sqrt(ratio), 1.0)

    def pair(step: int) -> tuple[StudentAssistant, Split]:
        shares = (step / STEPS * math.sqrt(ratio) / both, step / STEPS / both)
        made = cut_in_two(
            given,
            shares,
            head=head,
            features=features,
            num_classes=num_classes,
            example=example,
            call=call,
        )
        cost = count_parameters(made), flops_on(made, example, call)
        return made, Split(shares, *cost, parameters, flops)

    low, high = 0, STEPS + 1  # the largest step known to fit; the smallest known not to
    found = None
    while high - low > 1:
        step = (low + high) // 2
        made, split = pair(step)
        if split.parameters <= parameters and split.flops <= flops:
            low, found = step, (made, split)
        else:
            high = step
    if found is None:
        raise ModelError(
            f"no student and assistant that add up in {features} features are as small as "
            f"{type(given).__name__} with its {parameters:,} parameters: give a larger student"
        )
    return found
