"""torch's optimisers for steps that nobody compiles: the same numbers, without the compiler.

torch's own classes import its compiler, and sympy with it, when they are made, and tell it at
every step not to look inside. That takes 70 MiB and a second of a run. The methods beneath do the
work and need none of it, so these classes call them; hooks, states and checkpoints are torch's.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import optim

_TORCH = f"{Path(torch.__file__).parent}{os.sep}"


def beneath(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return what torch's own wrappers call; somebody else's wrapper stays on."""
    found: Callable[..., Any] = inspect.unwrap(method, stop=lambda one: not _is_torchs(one))
    return found


def _is_torchs(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and code.co_filename.startswith(_TORCH)


class _Eager(optim.Optimizer):
    """An optimiser of torch's without the wrappers that keep the compiler out of it."""

    add_param_group = beneath(optim.Optimizer.add_param_group)
    state_dict = beneath(optim.Optimizer.state_dict)
    load_state_dict = beneath(optim.Optimizer.load_state_dict)
    zero_grad = beneath(optim.Optimizer.zero_grad)

    def _step(self, torchs: Callable[..., Any], closure: Callable[[], Any] | None) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return beneath(torchs)(self, closure)


class SGD(_Eager, optim.SGD):
    """``torch.optim.SGD``, not to be compiled."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; see ``torch.optim.SGD.step``."""
        return self._step(optim.SGD.step, closure)


class Adam(_Eager, optim.Adam):
    """``torch.optim.Adam``, not to be compiled."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; see ``torch.optim.Adam.step``."""
        return self._step(optim.Adam.step, closure)


class AdamW(_Eager, optim.AdamW):
    """``torch.optim.AdamW``, not to be compiled."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; see ``torch.optim.AdamW.step``."""
        return self._step(optim.AdamW.step, closure)


class LBFGS(_Eager, optim.LBFGS):
    """``torch.optim.LBFGS``, not to be compiled."""
