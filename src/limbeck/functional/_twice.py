"""What autograd functions of ours share: derivatives of any order, and ``torch.func``."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Part = Callable[..., tuple[Tensor, ...]]
"""``(place, *tensors)``: what one part adds to each of the sums, in differentiable torch."""


def is_last() -> bool:
    """Whether a backward is an ordinary one, whose slopes nothing differentiates or maps over.

    Under ``torch.vmap`` the batching rule of cdist's own backward gives wrong slopes (torch 2.13).
    """
    return not torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active()


def slopes_of(
    function: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor], above: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return the slopes of a function at its inputs, and with a graph where one is recorded.

    Args:
        function: of the inputs, in differentiable torch.
        inputs: tensors of floats.
        above: what comes from above, for each of its outputs.
    """
    if torch._C._are_functorch_transforms_active():  # which have no place for saved tensors' hooks
        back = torch.func.vjp(function, *inputs)[1]
        found: tuple[Tensor, ...] = back(tuple(above))
        return found
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        own = [x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in inputs]
        return torch.autograd.grad(
            function(*own), own, above, create_graph=recorded, materialize_grads=True
        )


def one_by_one(function: Any, info: Any, in_dims: Any, *args: Any) -> Any:
    """Serve ``torch.vmap`` by a loop, which holds no more at once than a single call does.

    Args:
        function: a ``torch.autograd.Function``.
        info: torch's, with ``batch_size``.
        in_dims: for each argument the dimension that is mapped over; None: none.
        args: the arguments.
    """
    told = [
        function.apply(
            *(
                arg if place is None else arg.select(place, number)
                for arg, place in zip(args, in_dims, strict=True)
            )
        )
        for number in range(info.batch_size)
    ]
    if isinstance(told[0], Tensor):
        return torch.stack(told), 0
    return tuple(map(torch.stack, zip(*told, strict=True))), (0,) * len(told[0])


def summed(part: Part, places: range, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return ``Σ part(place, *tensors)``, of which one part at a time is in memory.

    So it is on the way back: the slopes are sums of as many parts, and so are theirs, to any order.
    """
    found: tuple[Tensor, ...] = _Summed.apply(part, places, *tensors)  # type: ignore[no-untyped-call]
    return found


class _Summed(torch.autograd.Function):
    """The sums; nothing of the parts is kept."""

    @staticmethod
    def forward(part: Part, places: range, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Add up."""
        sums = part(places[0], *tensors)
        for place in places[1:]:
            sums = tuple(a + b for a, b in zip(sums, part(place, *tensors), strict=True))
        return sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep what the parts are made from."""
        ctx.part, ctx.places, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Any, ...]:
        """Return the slopes, part by part."""
        part, count = ctx.part, len(above)

        def slopes(place: int, *given: Tensor) -> tuple[Tensor, ...]:
            """The slope of one part, from what comes from above and the part's own tensors."""
            return slopes_of(lambda *tensors: part(place, *tensors), given[count:], given[:count])

        return None, None, *summed(slopes, ctx.places, *above, *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        """Map by a loop."""
        return one_by_one(_Summed, info, in_dims, *args)
