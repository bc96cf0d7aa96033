"""A network that goes on from somebody else's features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from limbeck.errors import TapError
from limbeck.taps.resolve import resolve_taps
from limbeck.taps.values import replace_tensor


def run_from(model: nn.Module, tap: str, feature: Tensor, call: Callable[[nn.Module], Any]) -> Any:
    """Run a network with ``feature`` in place of its own at ``tap``.

    All of it runs; what lies before the tap records no graph and comes to nothing. The network's
    modes and weights are left as they are. Where ``feature`` is wider than the network's weights
    (float64), the network is run in that precision.

    Args:
        model: the network, its parameters frozen.
        tap: the layer whose output is replaced: a role, a path, or a glob of one module.
        feature: of the shape that the layer gives.
        call: how it is run: ``call(model)``.

    Returns:
        what the network answers, with a graph back to ``feature``.

    Raises:
        TapError: the tap is an input or names several modules, or the shapes differ.
    """
    (*others, resolved) = resolve_taps(model, tap)
    if others or resolved.side != "out":
        raise TapError(f"tap {tap!r}: name the output of one module for features to enter at")

    def enter(own: Tensor) -> Tensor:
        if own.shape != feature.shape:
            raise TapError(
                f"tap {tap!r} gives features of shape {tuple(own.shape)}; what enters there has "
                f"shape {tuple(feature.shape)}"
            )
        return feature if own.dtype == feature.dtype else feature.to(own.dtype)

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        return replace_tensor(output, enter)

    handle = model.get_submodule(resolved.path).register_forward_hook(hook)
    try:
        return call(_AsWide(model, feature.dtype))
    finally:
        handle.remove()


class _AsWide(nn.Module):
    """A network whose weights are at least as wide as a precision; the network's own otherwise."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.__dict__["model"], self.dtype = model, dtype

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network."""
        model: nn.Module = self.__dict__["model"]
        if self.dtype != torch.float64:
            return model(*args, **kwargs)
        weights = {
            name: value.to(self.dtype) if value.is_floating_point() else value
            for name, value in (*model.named_parameters(), *model.named_buffers())
        }
        args = tuple(
            one.to(self.dtype) if isinstance(one, Tensor) and one.is_floating_point() else one
            for one in args
        )
        return functional_call(model, weights, args, kwargs)
