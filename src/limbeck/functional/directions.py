"""Directions of gradients held together (GKD, Wang, Li and Sun 2211.01071), and loyalty."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.functional._common import result_dtype
from limbeck.functional.mixture import jensen_shannon

_EPS = 1e-12  # a vector of a smaller norm has no direction

Reduction = Literal["samples", "rows", "batchmean", "elementwise"]


def top_log_odds(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    r"""Log-odds of each sample's own top class, :math:`\log p_m - \log(1 - p_m)`.

    Its gradient is that of :math:`p_m` times :math:`1 / (p_m (1 - p_m)) > 0`: the same direction,
    which does not vanish where the softmax is saturated.

    Args:
        logits: ``[batch, classes]``, at least two classes.

    Raises:
        ValueError: there is one class only.

    >>> top_log_odds(torch.tensor([[1.0, 4.0], [100.0, 0.0]]))
    tensor([  3., 100.])
    """
    if logits.shape[1] < 2:
        raise ValueError(f"logits have {logits.shape[1]} class; expected at least 2")
    wide = logits.to(result_dtype(logits))
    top = wide.detach().argmax(dim=1, keepdim=True)
    others = wide.scatter(1, top, -torch.inf)
    return wide.gather(1, top).squeeze(1) - others.logsumexp(dim=1)


def direction_distance(
    student: Float[Tensor, "batch *rows width"],
    teacher: Float[Tensor, "batch *rows width"],
    mask: Bool[Tensor, " batch *rows"] | None = None,
    *,
    reduction: Reduction = "samples",
) -> Float[Tensor, ""]:
    r"""Squared distance of directions, :math:`\| u(s) - u(t) \|^2` with :math:`u(v) = v / \|v\|`.

    A row costs from 0 (same direction) over 2 (orthogonal) to 4 (opposite). A row of zeros has no
    direction: ``u(0) = 0``. For gradients, at the embeddings of tokens, it is L_GKD.

    Args:
        student: vectors in the last dimension, one for each row (token) of each sample.
        teacher: the same of the teacher; receives no gradient.
        mask: which rows count; None: all.
        reduction: "samples" averages over a sample's rows, then over samples; "rows" averages
            over all rows that count; "batchmean" sums over a sample's rows and averages over
            samples; "elementwise" averages over rows and width.

    Raises:
        ValueError: shapes differ, or an unknown reduction.
    """
    if student.shape != teacher.shape or (mask is not None and mask.shape != student.shape[:-1]):
        masked = "" if mask is None else f", mask {tuple(mask.shape)}"
        raise ValueError(
            f"vectors: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}{masked}; "
            "expected the same shape, and a mask without the last dimension"
        )
    dtype = result_dtype(student)
    gap = _direction(student.to(dtype)) - _direction(teacher.detach().to(dtype))
    batch, width = student.shape[0], student.shape[-1]
    rows_each = student.shape[1:-1].numel()
    cost = gap.square().sum(dim=-1).reshape(batch, rows_each)
    kept = torch.ones_like(cost) if mask is None else mask.reshape(batch, rows_each).to(dtype)
    cost, rows = (cost * kept).sum(dim=1), kept.sum(dim=1)
    if reduction == "samples":
        return (cost / rows.clamp(min=1)).sum() / max(batch, 1)
    if reduction == "batchmean":
        return cost.sum() / max(batch, 1)
    if reduction == "rows":
        return cost.sum() / rows.sum().clamp(min=1)
    if reduction == "elementwise":
        return cost.sum() / (rows.sum() * width).clamp(min=1)
    raise ValueError(
        f"reduction is {reduction!r}; expected samples, rows, batchmean or elementwise"
    )


def probability_loyalty(
    student_logits: Float[Tensor, "batch classes"], teacher_logits: Float[Tensor, "batch classes"]
) -> Float[Tensor, " batch"]:
    """Return ``1 - sqrt(JS(p_S, p_T))`` of each sample, natural logarithm (Xu et al. 2021).

    Args:
        student_logits: ``[batch, classes]``.
        teacher_logits: the same of the teacher.

    Returns:
        ``[batch]`` in [1 - sqrt(log 2), 1]; 1 where both say the same.
    """
    wide = (student_logits.double(), teacher_logits.double())
    apart: Tensor = jensen_shannon(*wide, reduction="none")
    return 1 - apart.clamp(min=0).sqrt()


def row_correlation(
    student: Float[Tensor, "batch rows"],
    teacher: Float[Tensor, "batch rows"],
    mask: Bool[Tensor, "batch rows"] | None = None,
) -> Float[Tensor, " batch"]:
    """Pearson correlation of two saliency maps, sample by sample: saliency loyalty before the mean.

    Args:
        student: ``[batch, rows]``, one value for each token.
        teacher: the same of the teacher.
        mask: which rows count; None: all.

    Returns:
        ``[batch]`` in [-1, 1]; NaN where a sample has fewer than two rows, or a map is constant.
    """
    kept = torch.ones_like(student, dtype=torch.bool) if mask is None else mask
    count = kept.sum(dim=1, keepdim=True)

    def centred(values: Tensor) -> Tensor:
        values = torch.where(kept, values.double(), 0.0)
        return torch.where(kept, values - values.sum(dim=1, keepdim=True) / count, 0.0)

    ours, theirs = centred(student), centred(teacher)
    size = torch.linalg.vector_norm(ours, dim=1) * torch.linalg.vector_norm(theirs, dim=1)
    found = (ours * theirs).sum(dim=1) / size
    return torch.where((count.squeeze(1) >= 2) & (size > 0), found.clamp(-1, 1), torch.nan)


def _direction(vectors: Tensor) -> Tensor:
    """Unit vectors; zero, with zero gradient, where there is no direction."""
    norms = torch.linalg.vector_norm(vectors.detach(), dim=-1, keepdim=True)
    directed = norms > _EPS
    safe = torch.where(directed, vectors, 1.0)
    return torch.where(directed, safe / torch.linalg.vector_norm(safe, dim=-1, keepdim=True), 0.0)
