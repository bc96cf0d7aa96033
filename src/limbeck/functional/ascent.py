"""Inputs moved to where two models disagree more."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def ascend(
    inputs: Float[Tensor, "batch ..."],
    compare: Callable[[Tensor], Tensor],
    *,
    rate: float,
    steps: int,
) -> Float[Tensor, "batch ..."]:
    """Follow the gradient of a divergence uphill: ``x <- x + rate * grad_x compare(x)``.

    Plain steps, without sign, projection or clipping (Jafari et al., 2301.12006).

    Args:
        inputs: ``[batch, ...]``, floating point; stays as it is.
        compare: the divergence of each sample, ``[batch]``, differentiable in its argument.
        rate: step size, at least 0.
        steps: number of steps, at least 0.

    Returns:
        The moved inputs, without a graph. The same where a gradient is zero.

    Raises:
        ValueError: rate or steps are negative.

    >>> ascend(torch.tensor([[1.0]]), lambda x: x.square().sum(1), rate=0.5, steps=2)
    tensor([[4.]])
    """
    if rate < 0 or steps < 0:
        raise ValueError(f"rate is {rate}, steps is {steps}; expected numbers of at least 0")
    moved = inputs.detach()
    for _ in range(steps):
        moved = moved.clone().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(compare(moved).sum(), moved)
        moved = (moved + rate * slope).detach()
    return moved


def with_norms_of(
    directions: Float[Tensor, "batch ..."], lengths: Float[Tensor, "batch ..."]
) -> Float[Tensor, "batch ..."]:
    """Return each sample's direction at the Euclidean norm of the other tensor's sample.

    Args:
        directions: ``[batch, ...]``; a sample of zeros stays one.
        lengths: ``[batch, ...]``.
    """
    own, wanted = (torch.linalg.vector_norm(x.flatten(1), dim=1) for x in (directions, lengths))
    scale: Tensor = wanted / own.clamp(min=torch.finfo(own.dtype).tiny)
    return directions * scale.view(-1, *[1] * (directions.ndim - 1))
