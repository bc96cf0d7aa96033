"""Divergences from a teacher of whom only some classes are kept: no dense teacher row is made.

Two ways of keeping a distribution p over very many classes:

- **the largest k, and the mass of the rest** ("tail"): the loss is the KL divergence of the two
  distributions over k + 1 outcomes, the classes kept and "any other". Merging outcomes can only
  lower a divergence, so it is at most the dense one, equal where ratios agree in the tail, and,
  unlike a sum cut off after k terms, a divergence itself: never negative, nothing to clamp.
- **a random sample** (RS-KD, "Sparse Logit Sampling", ACL 2025): m draws with replacement from p,
  kept as counts; p̂ = counts / m. E[p̂] = p, so the gradient q - p̂ is that of the dense loss on
  average, with variance (1 - Σ p_j²) / m over all classes together.

Precision and the exact form of each term are those of ``divergence``.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.functional._common import (
    Reduction,
    check_positive,
    check_same_shape,
    divisor_of,
    reduce_rows,
    result_dtype,
    working_dtype,
)
from limbeck.functional.divergence import _LOWEST, _centred, _kl_rows
from limbeck.kernels import SparseDivergence, form_for, value_of


def kl_sparse(
    student_logits: Float[Tensor, "*batch classes"],
    ids: Int[Tensor, "*batch kept"],
    log_probs: Float[Tensor, "*batch kept"],
    log_tail: Float[Tensor, "*batch"] | None = None,
    *,
    temperature: float = 1.0,
    scale_by_temperature_squared: bool = True,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """T² · KL(teacher ‖ student) of the classes kept and of all others as one outcome.

    Σ_K p_k log(p_k / q_k) + p_tail log(p_tail / q_tail) with q = softmax(student/T). Its gradient
    with respect to a student logit is ``T (q - p)`` for a class kept and ``T q (1 - p_tail /
    q_tail)`` for the others; without a tail that is ``T q``. All p_k and p_tail sum to one, each
    up to its own rounding.

    Args:
        student_logits: ``[*batch, classes]``.
        ids: int64 ``[*batch, kept]``: classes kept, none twice in a row.
        log_probs: log p of these at temperature T; -inf for a place that is not used. Fixed,
            they receive no gradient.
        log_tail: log of the mass of all other classes at T; None: they have none (a sample).
        temperature: T > 0 of the student; the teacher's was applied before classes were dropped.
        scale_by_temperature_squared: multiply by T².
        reduction: see ``Reduction``; ``elementwise`` divides by all classes, kept or not.

    Returns:
        A scalar, or one value per sample. Never negative.

    Raises:
        ValueError: shapes do not fit, temperature is not positive, or reduction is unknown.

    >>> uniform = torch.zeros(1, 4)
    >>> kl_sparse(uniform, torch.tensor([[2]]), torch.tensor([[0.0]]))  # all mass on class 2
    tensor(1.3863)
    """
    check_same_shape(ids, log_probs, "ids and log-probabilities of the teacher")
    if student_logits.shape[:-1] != ids.shape[:-1]:
        raise ValueError(
            f"student logits have shape {tuple(student_logits.shape)}, ids of the teacher "
            f"{tuple(ids.shape)}; expected the same samples"
        )
    if log_tail is not None and log_tail.shape != ids.shape[:-1]:
        raise ValueError(
            f"log_tail has shape {tuple(log_tail.shape)}; expected {tuple(ids.shape[:-1])}"
        )
    check_positive("temperature", temperature)
    classes, scale = student_logits.shape[-1], 1.0
    if scale_by_temperature_squared:
        scale = temperature**2

    def plain(student: Tensor) -> Tensor:
        rows = _rows(student, ids, log_probs, log_tail, temperature) * scale
        return reduce_rows(rows, classes, reduction).to(result_dtype(student))

    form = form_for(student_logits)
    if form in ("plain", "direct") or not ids.numel():
        return plain(student_logits)
    weight = scale / divisor_of(student_logits.numel() // classes, classes, reduction)
    work = SparseDivergence(
        form, ids, log_probs, log_tail, temperature, weight, reduction != "none"
    )
    return value_of(student_logits, work, plain).to(result_dtype(student_logits))


def _rows(
    student: Tensor, ids: Tensor, log_probs: Tensor, log_tail: Tensor | None, temperature: float
) -> Tensor:
    """Return the divergence of each sample, ``[*batch]``."""
    dtype = working_dtype(student)
    x = _centred(student.to(dtype)) / temperature
    log_p, others = _teacher(log_probs, log_tail, dtype)
    p = log_p.exp()
    kept = x.gather(-1, ids).clamp(min=_LOWEST)
    log_z, rest = x.logsumexp(dim=-1), _rest(x, ids, p > 0)
    log_q = torch.cat((kept, rest[..., None]), dim=-1).detach() - log_z.detach()[..., None]
    # A place not used stands for no class: its mass on both sides is 0.
    log_q = log_q.masked_fill(torch.cat((p == 0, torch.zeros_like(others) > 0), -1), -torch.inf)
    every = torch.cat((log_p, others), dim=-1)
    value = _kl_rows(log_q, every, every.exp())
    log_loss = log_z - (p * kept).sum(dim=-1) - others.exp().squeeze(-1) * rest
    return value + (log_loss - log_loss.detach())


def _teacher(
    log_probs: Tensor, log_tail: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return log p of the classes kept, and of the tail as ``[*batch, 1]``."""
    kept = log_probs.detach().to(dtype)
    if log_tail is None:
        return kept, kept.new_full((*kept.shape[:-1], 1), -torch.inf)
    return kept, log_tail.detach().to(dtype)[..., None]


def _rest(x: Tensor, ids: Tensor, used: Tensor) -> Tensor:
    """Return the log-sum-exp of the logits of all classes that are not kept, ``[*batch]``.

    Summed, not taken as 1 minus the rest, which has no digits left where it is small. Finite even
    where nothing is left, so that its gradient is 0 and not NaN.
    """
    classes = x.shape[-1]
    mask = torch.zeros((*x.shape[:-1], classes + 1), dtype=torch.bool, device=x.device)
    mask.scatter_(-1, torch.where(used, ids, classes), True)  # one place more for those not used
    return x.clamp(min=_LOWEST).masked_fill(mask[..., :classes], _LOWEST).logsumexp(dim=-1)
