"""Several students in one module."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from limbeck.errors import ModelError
from limbeck.models.calling import call_model


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
