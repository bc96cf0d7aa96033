"""Divergences to a mixture of student and teacher."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional._common import Reduction
from limbeck.functional.divergence import (
    _LOWEST,
    _by_size,
    _check_pair,
    _finish,
    _kl_rows,
    _tempered,
)


def jensen_shannon(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    scale_by_temperature_squared: bool = True,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """T² · (β KL(p ‖ m) + (1-β) KL(q ‖ m)), m = β p + (1-β) q, with teacher p and student q.

    The generalised Jensen–Shannon divergence of GKD (Agarwal et al. 2306.13649); β = 0.5 is the
    usual one, between 0 and log 2 for T = 1. Towards β = 0 it behaves as β · KL(p ‖ q), towards
    β = 1 as (1-β) · KL(q ‖ p), and it is 0 at both ends: there ``kl_divergence`` and
    ``reverse_kl`` are meant.

    Args:
        student_logits: ``[*batch, classes]``.
        teacher_logits: ``[*batch, classes]``; fixed, receives no gradient.
        beta: share of the teacher in the mixture, in (0, 1).
        temperature: T > 0 of both sides.
        scale_by_temperature_squared: multiply by T².
        reduction: see ``Reduction``.

    Raises:
        ValueError: shapes differ, beta, temperature or reduction is invalid.
    """
    if not 0 < beta < 1:
        raise ValueError(
            f"beta is {beta}; expected a number in (0, 1) (kl_divergence for 0, reverse_kl for 1)"
        )
    scale = temperature**2 if scale_by_temperature_squared else 1.0

    def plain(student: Tensor) -> Tensor:
        x, y = _tempered(student, teacher_logits, temperature)
        # a class that both mask: log(0 + 0) has no slope, the logarithm of next to nothing has
        log_q, log_p = (z.log_softmax(dim=-1).clamp(min=_LOWEST) for z in (x, y))
        log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
        rows = beta * _kl_rows(log_m, log_p, log_p.exp())
        rows = rows + (1 - beta) * _kl_rows(log_m, log_q, log_q.exp())
        return _finish(rows * scale, student, reduction)

    _check_pair(student_logits, teacher_logits, temperature)
    return _by_size(
        student_logits, teacher_logits, plain, "mixture", temperature, scale, reduction, beta
    )
