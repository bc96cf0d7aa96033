"""Which batch norm made what a tap sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from limbeck.methods.context import Context
from limbeck.taps import TapPair, resolve_taps
from limbeck.taps.values import tensor_in

SHORTCUTS = {"shortcut", "downsample"}
"""What networks call the branch around a residual block."""


def norms_before(teacher: Any, pairs: Sequence[TapPair], ctx: Context) -> list[str | None]:
    """Return, for each pair, the path of the teacher's batch norm before the tapped layer.

    That is the last one that ran before the tap and whose output has the tap's shape; a residual
    block's own, not its shortcut's. None where there is none.

    Args:
        teacher: a Teacher with a module, run once on the example.
        pairs: the layers.
        ctx: the context of ``prepare``.
    """
    network: nn.Module = teacher.module
    modules = dict(network.named_modules())
    ran: list[tuple[str, tuple[int, ...]]] = []
    found: dict[int, str | None] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            ran.append((name, tuple(output.shape)))

        return hook

    def reached(place: int) -> Callable[..., None]:
        def hook(_module: nn.Module, *values: Any) -> None:
            feature = tensor_in(values[-1])
            shape = None if feature is None else tuple(feature.shape)
            fitting = [name for name, size in ran if size == shape]
            found[place] = fitting[-1] if fitting else None

        return hook

    handles: list[RemovableHandle] = []
    for name, module in modules.items():
        if isinstance(module, nn.BatchNorm2d) and not SHORTCUTS & set(name.split(".")):
            handles.append(module.register_forward_hook(note(name)))
    for place, pair in enumerate(pairs):
        (tap,) = resolve_taps(network, pair.teacher)
        at = modules[tap.path]
        if tap.side == "in":
            handles.append(at.register_forward_pre_hook(reached(place)))
        else:
            handles.append(at.register_forward_hook(reached(place)))
    try:
        teacher.ask(ctx.example, taps=())
    finally:
        for handle in handles:
            handle.remove()
    return [found.get(place) for place in range(len(pairs))]
