"""Euclidean distances of all pairs, from differences, with derivatives of any order."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional._twice import is_last, one_by_one

_MODE = "donot_use_mm_for_euclid_dist"


def distances(
    first: Float[Tensor, "*batch n width"], second: Float[Tensor, "*batch m width"]
) -> Float[Tensor, "*batch n m"]:
    """Distances of each vector of one set to each of another: 0 for equal ones, as is their slope.

    Args:
        first: ``[..., n, width]``.
        second: ``[..., m, width]``.
    """
    with torch.autocast(first.device.type, enabled=False):
        if torch.compiler.is_compiling() or _are_fixed(first, second):
            return torch.cdist(first, second, compute_mode=_MODE)
        found: Tensor = _Distances.apply(first, second)  # type: ignore[no-untyped-call]
        return found


def inverse_of(distance: Tensor) -> Tensor:
    """Return 1 / distance, and 0 where that is 0."""
    apart = distance > 0
    return torch.where(apart, 1 / torch.where(apart, distance, 1.0), 0.0)


def _are_fixed(first: Tensor, second: Tensor) -> bool:
    """Whether nothing asks for slopes, nor maps over these."""
    wanted = torch.is_grad_enabled() and (first.requires_grad or second.requires_grad)
    return not wanted and not torch._C._are_functorch_transforms_active()


class _Distances(torch.autograd.Function):
    """``torch.cdist``, whose own backward has no derivative."""

    @staticmethod
    def forward(first: Tensor, second: Tensor) -> Tensor:
        """Return the distances."""
        return torch.cdist(first, second, compute_mode=_MODE)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Keep the vectors and their distances."""
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slopes; where they will themselves be differentiated, from plain products."""
        first, second, between = ctx.saved_tensors
        if is_last():
            back = torch.ops.aten._cdist_backward
            ours = back(above.contiguous(), first, second, 2.0, between)
            return ours, back(above.mT.contiguous(), second, first, 2.0, between.mT.contiguous())
        middle = first.detach().mean(-2, keepdim=True)  # slopes do not see it, rounding does
        first, second = first - middle, second - middle
        with torch.autocast(first.device.type, enabled=False):
            pull = above * inverse_of(between)
            return (
                pull.sum(-1)[..., None] * first - pull @ second,
                pull.sum(-2)[..., None] * second - pull.mT @ first,
            )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        """Map by a loop."""
        return one_by_one(_Distances, info, in_dims, *args)
