"""torch's optimisers for steps that nobody compiles: the same numbers, without the compiler.

torch's own classes import its compiler, and sympy with it, when they are made, and tell it at
every step not to look inside. That takes 70 MiB and a second of a run. The methods beneath do the
work and need none of it, so these classes call them; hooks, states and checkpoints are torch's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import optim


def _beneath(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return what torch's wrappers call; the method itself where it has none."""
    found: Callable[..., Any] = inspect.unwrap(method)
    return found


class _Eager(optim.Optimizer):
    """An optimiser of torch's without the wrappers that keep the compiler out of it."""

    add_param_group = _beneath(optim.Optimizer.add_param_group)
    state_dict = _beneath(optim.Optimizer.state_dict)
    load_state_dict = _beneath(optim.Optimizer.load_state_dict)
    zero_grad = _beneath(optim.Optimizer.zero_grad)


class SGD(_Eager, optim.SGD):
    """``torch.optim.SGD``, not to be compiled."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; see ``torch.optim.SGD.step``."""
        return _beneath(optim.SGD.step)(self, closure)


class Adam(_Eager, optim.Adam):
    """``torch.optim.Adam``, not to be compiled."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; see ``torch.optim.Adam.step``."""
        return _beneath(optim.Adam.step)(self, closure)


class AdamW(_Eager, optim.AdamW):
    """``torch.optim.AdamW``, not to be compiled."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; see ``torch.optim.AdamW.step``."""
        return _beneath(optim.AdamW.step)(self, closure)
