"""Divergence from a teacher of whom some classes are kept: one exponential for each logit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.kernels.blocks import blocks
from limbeck.kernels.bodies import excess, raise_others
from limbeck.kernels.choice import Form
from limbeck.kernels.dense import FILLING, compiled, working_dtype

_BLOCK = 2**20  # logits gone over at once: worked on in place, and forty small steps are shared
_LOWEST = -1e30  # stands for a log of nothing where inf - inf would be formed


@dataclass(frozen=True)
class SparseDivergence:
    """KL over the classes kept and "any other".

    The row of the student is gone over as logits of the others alone, the classes kept masked, and
    becomes their gradient in place; all that concerns the few classes kept is float64.

    Attributes:
        form: "chunked" or "compiled".
        ids: classes kept, ``[*batch, kept]``, none twice in a row.
        log_probs: their log-probabilities; -inf: a place not used.
        log_tail: log of the mass of all others, ``[*batch]``; None: they have none.
        temperature: T of the student.
        weight: of every row.
        summed: add up the rows.
    """

    form: Form
    ids: Tensor
    log_probs: Tensor
    log_tail: Tensor | None
    temperature: float
    weight: float
    summed: bool

    def __call__(self, student: Tensor, gradient: Tensor | None) -> Tensor:
        """Return the value, and fill ``gradient``."""
        log_p = self.log_probs.detach()
        tail = log_p.new_full((*log_p.shape[:-1], 1), -torch.inf)
        if self.log_tail is not None:
            tail = self.log_tail.detach()[..., None]
        values = torch.empty(tail.shape, dtype=torch.float64, device=student.device)
        tensors = [student, self.ids, log_p, tail, values]
        tensors += [] if gradient is None else [gradient]
        with torch.no_grad(), torch.autocast(student.device.type, enabled=False):
            in_place = gradient is not None and gradient.dtype == working_dtype(student)
            for block in blocks(tensors, _block_size(student, in_place)):
                block[4].copy_(self._rows(*block[:4], *block[5:]))
        rows = values.squeeze(-1) * self.weight
        return (rows.sum() if self.summed else rows).to(working_dtype(student))

    def _rows(
        self, x: Tensor, ids: Tensor, log_p: Tensor, tail: Tensor, gradient: Tensor | None = None
    ) -> Tensor:
        """Return the values of a block, ``[rows, 1]``."""
        cold, dtype = 1 / self.temperature, working_dtype(x)
        used = log_p.double().exp() > 0
        others = gradient if gradient is not None and gradient.dtype == dtype else None
        others = torch.empty(x.shape, dtype=dtype, device=x.device) if others is None else others
        others.copy_(x)
        # Added, not written: a place not used adds nothing to the class that stands in it.
        others.scatter_add_(-1, ids, torch.where(used, -torch.inf, 0.0).to(dtype))
        # Triton would make a new tensor of what is here worked on in place, and gain little
        quick = self.form == "compiled" and x.device.type == "cpu"
        body = compiled(raise_others) if quick else raise_others
        top, rest = (column.double() for column in body(others, others.new_full((1, 1), cold)))
        kept = (x.gather(-1, ids).double() * cold).masked_fill(~used, -torch.inf)
        logs = torch.cat((kept, rest.log() + top * cold), dim=-1)
        logs[..., :-1].masked_fill_(used & (kept < _LOWEST), _LOWEST)
        logs[..., -1].clamp_(min=_LOWEST)
        log_q = logs - logs.logsumexp(dim=-1, keepdim=True)
        all_p = torch.cat((log_p, tail), dim=-1).double()
        q, p = log_q.exp(), all_p.exp()
        if gradient is not None:
            slope = (q - p) * (self.weight * cold)
            share = torch.where(rest > 0, slope[..., -1:] / rest, 0.0)
            others.mul_(share.to(dtype))
            others.scatter_add_(-1, ids, torch.where(used, slope[..., :-1], 0.0).to(dtype))
            if others is not gradient:
                gradient.copy_(others)
        gap = torch.where(p > 0, log_q - all_p, 2.0)
        return excess(p, q, gap).sum(dim=-1, keepdim=True)


def _block_size(student: Tensor, in_place: bool) -> int:
    """Return how many logits are gone over at once; on a GPU the forty small steps are the cost."""
    if student.device.type == "cpu":
        return min(_BLOCK, student.numel() // 12)
    return student.numel() if in_place else max(FILLING, student.numel() // 4)
