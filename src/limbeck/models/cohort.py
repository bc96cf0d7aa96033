"""Several students in one module, and as one network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.models.calling import call_model

COHORT_MEAN = "cohort mean"


class Cohort(nn.Module):
    """Networks that learn together: one module, one optimiser, one state dict.

    Args:
        members: the networks, at least one, each a different object.

    ``forward`` returns the list of the members' outputs, in order.
    """

    is_cohort = True

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        modules = list(members)
        if not modules:
            raise ModelError("a cohort needs at least one member")
        if len({id(module) for module in modules}) < len(modules):
            raise ModelError("members of a cohort must be different modules, one is given twice")
        self.members = nn.ModuleList(modules)

    def forward(
        self, *args: Any, each: Callable[[nn.Module, Any], Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        """Return each member's output.

        Args:
            args: positional inputs of every member.
            each: ``forward(member, batch)`` of the user's, called with the one positional input
                for each member. It is given here, and not called from outside, so that a wrapper
                around the cohort (data parallelism) sees one forward for all members.
            kwargs: keyword inputs of every member.
        """
        if each is not None:
            return [each(member, *args) for member in self.members]
        return [call_model(member, args, **kwargs) for member in self.members]


class CohortMean(nn.Module):
    """The members of a cohort as one network: the mean of their logits.

    Args:
        members: the networks, at least one.

    ``forward`` takes what a member takes, and returns one tensor of logits; where members return
    mappings, ``{"logits": ...}``.
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the mean of the members' logits."""
        said = [member(*args, **kwargs) for member in self.members]
        mean = torch.stack([logits_of(one) for one in said]).mean(dim=0)
        return {"logits": mean} if isinstance(said[0], Mapping) else mean


def logits_of(answer: Any) -> Tensor:
    """Return the logits of what a network answers: a tensor, or what holds one."""
    if isinstance(answer, Mapping):
        answer = answer["logits"]
    elif isinstance(answer, tuple | list):
        answer = answer[0]
    logits: Tensor = getattr(answer, "logits", answer)
    return logits


def cohort_mean_spec(specs: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Return how to rebuild the mean of these members; None where one cannot be rebuilt."""
    known = [dict(spec) for spec in specs if spec is not None]
    if len(known) < len(specs):
        return None
    shared = {key: known[0].get(key) for key in ("num_classes", "input_shape")}
    return {"model": COHORT_MEAN, "arguments": {"members": known}, **shared}
