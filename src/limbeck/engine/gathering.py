"""Joining the samples of all processes, with gradients that find their way back."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather(tensor: Tensor, rank: int, size: int) -> Tensor:
    """Return the rows of all processes, rank after rank; every rank must call it.

    The gradient of a rank's rows is the sum of what all ranks ask of them. A loss that every rank
    takes over all rows, scaled by the rank's share of the samples times the number of ranks (as
    the engine scales every loss), then has the gradient of one process with all rows, once
    ``DistributedDataParallel`` has averaged: shares add up to 1.

    Args:
        tensor: ``[samples, ...]``; the number of samples may differ from rank to rank.
        rank: this process.
        size: number of processes.
    """
    counts = _counts(tensor, size)
    if torch.is_grad_enabled() and tensor.requires_grad:
        joined: Tensor = _Gather.apply(tensor, counts, rank)  # type: ignore[no-untyped-call]
        return joined
    return _join(tensor, counts)


def _counts(tensor: Tensor, size: int) -> list[int]:
    """Return how many rows each rank has."""
    own = torch.tensor([len(tensor)], device=tensor.device)
    counts = [torch.empty_like(own) for _ in range(size)]
    dist.all_gather(counts, own)
    found: list[int] = torch.cat(counts).tolist()
    return found


def _join(tensor: Tensor, counts: list[int]) -> Tensor:
    """Exchange rows; ragged ones are padded to the longest on the way."""
    longest = max(counts)
    padded = tensor.new_zeros((longest, *tensor.shape[1:]))
    padded[: len(tensor)] = tensor.detach()
    everyone = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(everyone, padded)
    return torch.cat([rows[:count] for rows, count in zip(everyone, counts, strict=True)])


class _Gather(torch.autograd.Function):
    """The differentiable form."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, counts: list[int], rank: int) -> Tensor:
        ctx.counts, ctx.rank = counts, rank
        return _join(tensor, counts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        start = sum(ctx.counts[: ctx.rank])
        return total[start : start + ctx.counts[ctx.rank]], None, None
