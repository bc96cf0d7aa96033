"""The curvature of a loss over all training data, along a direction."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from limbeck.data import eval_batches
from limbeck.data.batch import has_label
from limbeck.errors import MethodError
from limbeck.methods.supervised import task_loss
from limbeck.models.calling import call_model, twice_differentiable_attention
from limbeck.taps import unwrap
from limbeck.taps.outputs import as_outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle

_BATCH = 512
_MOST = 60  # products; each is a pass over the data
_CLOSE = 1e-3  # relative residual: λ* is not known to more digits than its noise leaves


def curvature_along(
    student: nn.Module, direction: Tensor, data: DataBundle, *, damping: float
) -> float:
    r"""Return :math:`\|g\|^2 / (2 g^T (H + \delta)^{-1} g)`, H the Hessian of the training loss.

    Args:
        student: the network at whose weights H is taken.
        direction: g, float64 ``[P]`` over the trainable parameters in order; 0 gives infinity.
        data: the data; labelled training samples, as evaluation shows them.
        damping: δ, above 0.

    Raises:
        MethodError: the loss is not convex there.
    """
    if float(direction.norm()) == 0:
        return math.inf
    multiply = hessian_product(student, data)
    solution = conjugate_gradients(lambda v: multiply(v) + damping * v, direction)
    return float(direction @ direction) / (2 * float(direction @ solution))


def hessian_product(student: nn.Module, data: DataBundle) -> Callable[[Tensor], Tensor]:
    """Return ``v -> H v`` in float64, each product a pass over the labelled training samples."""
    network = unwrap(student)
    wanted = [value for value in network.parameters() if value.requires_grad]
    view = data.splits["train"]
    view = view.select(view.indices[view.labelled])

    def product(vector: Tensor) -> Tensor:
        pieces = torch.split(vector, [value.numel() for value in wanted])
        along = [p.view_as(v).to(v.dtype) for p, v in zip(pieces, wanted, strict=True)]
        total = torch.zeros_like(vector)
        for batch in eval_batches(view, _BATCH, data.augment_eval):
            assert batch.targets is not None
            with torch.enable_grad(), twice_differentiable_attention():
                logits = as_outputs(call_model(network, batch.inputs)).logits
                loss = task_loss(data.task, logits, batch.targets)
                slopes = torch.autograd.grad(loss, wanted, create_graph=True)
                rise = torch.stack([(s * v).sum() for s, v in zip(slopes, along, strict=True)])
                found = torch.autograd.grad(rise.sum(), wanted, materialize_grads=True)
            share = float(has_label(batch.targets).sum()) / len(view)
            total += share * torch.cat([one.reshape(-1) for one in found]).double()
        return total

    modes = [(part, part.training) for part in network.modules()]

    def in_eval_mode(vector: Tensor) -> Tensor:
        network.eval()
        try:
            return product(vector)
        finally:
            for part, mode in modes:
                part.training = mode

    return in_eval_mode


def conjugate_gradients(multiply: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
    """Return an approximate solution of ``M x = right`` for a positive definite M.

    Raises:
        MethodError: M has a direction of negative curvature.
    """
    solution = torch.zeros_like(right)
    rest, direction = right.clone(), right.clone()
    size = float(rest @ rest)
    enough = _CLOSE**2 * size
    for _ in range(_MOST):
        image = multiply(direction)
        bend = float(direction @ image)
        if bend <= 0:
            raise MethodError(
                "variance: the loss is not convex at this student, so its curvature does not say "
                "where SGD settles; give one (curvature=, --curvature), or use unbiased=True"
            )
        length = size / bend
        solution += length * direction
        rest -= length * image
        before, size = size, float(rest @ rest)
        if size <= enough:
            break
        direction = rest + size / before * direction
    return solution
