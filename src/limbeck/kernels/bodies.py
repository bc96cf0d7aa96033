"""The arithmetic of one block of rows: values and gradient together, written once.

Each body takes the logits of both sides, ``[rows, classes]``, and columns ``[rows, 1]`` of what
may differ from row to row, writes the gradient with respect to the student's logits to
``gradient`` (unless that is None), and returns the value of each row. It is plain torch, in place
where it can be: run as it is on blocks that stay in cache, or compiled (``dense``).

Notation: q is the student's distribution, p the teacher's, both at temperature 1/``cold``;
d = log q - log p. Logits are centred before anything else happens to them, and d is made of the
centred logits, not of log q and log p: what rounding does to the two normalisers then shifts a
row of d by a constant, which a sum of ``p (e^d - 1 - d)`` feels in the second order only. No term
of such a sum is negative, and at equality each of them and each gradient is exactly zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SERIES = {torch.float32: 6, torch.float64: 11}  # terms: the next is below half a last digit


def forward_kl(
    student: Tensor, teacher: Tensor, cold: Tensor, weight: Tensor, gradient: Tensor | None
) -> Tensor:
    """KL(p ‖ q) times ``weight``; its gradient is ``weight (q - p) / T``.

    Args:
        student: logits.
        teacher: logits, in the student's precision or another.
        cold: 1/T of each row, in working precision.
        weight: of each row; counts in value and gradient.
        gradient: receives the gradient, in the student's precision; None: not wanted.
    """
    q, p, gap = _both(student, teacher, cold)
    if gradient is not None:
        gradient.copy_((q - p).mul_(weight * cold))
    gap = torch.where(p > 0, gap, 2.0)  # no mass: the term is q alone
    return excess(p, q, gap).sum(dim=-1) * weight.squeeze(-1)


def reverse_kl(
    student: Tensor, teacher: Tensor, cold: Tensor, weight: Tensor, gradient: Tensor | None
) -> Tensor:
    """KL(q ‖ p) times ``weight``; its gradient is ``weight q (d - Σ q d) / T``."""
    q, p, gap = _both(student, teacher, cold)
    gap = torch.where(q > 0, gap, -2.0)
    if gradient is not None:
        gradient.copy_(_slope(q, gap, weight * cold))
    return excess(q, p, gap.neg_()).sum(dim=-1) * weight.squeeze(-1)


def mixture_kl(
    student: Tensor,
    teacher: Tensor,
    cold: Tensor,
    weight: Tensor,
    gradient: Tensor | None,
    beta: Tensor,
) -> Tensor:
    """β KL(p ‖ m) + (1-β) KL(q ‖ m) with m = β p + (1-β) q, times ``weight``.

    Its gradient is ``weight q (s - Σ q s) / T`` with ``s = (1-β) log(q / m)``.
    """
    q, p, gap = _both(student, teacher, cold)
    to_q, to_p = _to_mixture(q, p, gap.abs_(), beta)
    m = beta * p + (1 - beta) * q
    if gradient is not None:
        gradient.copy_(_slope(q, (beta - 1) * to_q, weight * cold))
    terms = excess(p, m, to_p).mul_(beta).add_(excess(q, m, to_q).mul_(1 - beta))
    return terms.sum(dim=-1) * weight.squeeze(-1)


def _to_mixture(q: Tensor, p: Tensor, distance: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Return log(m/q) and log(m/p): one log1p of the smaller mass over the larger, and |d|."""
    ahead = q > p
    less, more = torch.minimum(p, q), torch.maximum(p, q)
    share = torch.where(ahead, beta, 1 - beta)  # of the side that has less
    tiny = torch.finfo(more.dtype).tiny
    of_more = torch.log1p((less - more).div_(more.clamp_(min=tiny)).mul_(share))
    of_less = torch.where(less > 0, of_more + distance, 2.0)
    return torch.where(ahead, of_more, of_less), torch.where(ahead, of_less, of_more)


def raise_others(logits: Tensor, cold: Tensor) -> tuple[Tensor, Tensor]:
    """Turn logits into exponentials, in place.

    Returns:
        The largest logit of each row (0 where all are masked), which was taken off, and the sum of
        the exponentials, both ``[rows, 1]``.
    """
    top = logits.amax(dim=-1, keepdim=True)
    top = torch.where(top == -torch.inf, 0.0, top)
    logits.sub_(top).mul_(cold).exp_()
    return top, logits.sum(dim=-1, keepdim=True)


def excess(mass: Tensor, other: Tensor, log_ratio: Tensor) -> Tensor:
    """``mass (e^r - 1 - r)``, where ``other`` is ``mass e^r``; never negative, 0 at r = 0."""
    near = log_ratio.abs() < 0.25  # a series there; farther away digits enough are left
    r = torch.where(near, log_ratio, 0.0)
    count = _SERIES[mass.dtype]
    series = r / math.factorial(count + 1)
    for power in range(count, 2, -1):
        series.add_(1 / math.factorial(power)).mul_(r)
    series.add_(1 / 2).mul_(r).mul_(r).mul_(mass)
    far = (other - mass * (1 + log_ratio)).clamp_(min=0)
    return torch.where(near, series, far)


def _both(student: Tensor, teacher: Tensor, cold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, p and d = log q - log p, which is NaN where both are masked."""
    x, q, log_student = _softened(student, cold)
    y, p, log_teacher = _softened(teacher, cold)
    return q, p, (x - y).mul_(cold).sub_(log_student - log_teacher)


def _softened(logits: Tensor, cold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return centred logits, probabilities, and the log of the sum of the exponentials."""
    wide = logits.to(cold.dtype)
    centred = wide - wide.amax(dim=-1, keepdim=True)
    mass = (centred * cold).exp_()
    total = mass.sum(dim=-1, keepdim=True)
    return centred, mass.mul_(1 / total), total.log()


def _slope(q: Tensor, slope: Tensor, factor: Tensor) -> Tensor:
    """Return ``factor q (s - Σ q s)``, the gradient of a loss whose slope in q is s."""
    mean = (q * slope).sum(dim=-1, keepdim=True)
    return (slope - mean).mul_(q).mul_(factor)
