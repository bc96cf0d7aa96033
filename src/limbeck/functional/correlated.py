"""KL divergence in three parts: the classes that the teacher thinks of, all others, and which."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.functional._common import (
    Reduction,
    check_min_classes,
    reduce_rows,
    result_dtype,
)
from limbeck.functional.divergence import _kl_rows, _tempered


def split_kl(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    members: Bool[Tensor, "*batch classes"],
    *,
    temperature: float = 1.0,
) -> tuple[
    Float[Tensor, "*batch"],
    Float[Tensor, "*batch"],
    Float[Tensor, "*batch"],
    Float[Tensor, "*batch"],
]:
    """The chain rule of KL over a set of classes and its complement, per sample, without T².

    ``KL(p ‖ q) = which + a · inside + (1 - a) · outside`` with a the teacher's mass in the set:
    ``which`` is the KL of (a, 1 - a), ``inside`` and ``outside`` that of the classes in the set and
    out of it, each made to sum to one. With the label alone as the set this is DKD's split.

    Args:
        student_logits: ``[*batch, classes]``.
        teacher_logits: ``[*batch, classes]``; fixed, receives no gradient.
        members: which classes are in the set, ``[*batch, classes]``; at least one in each row, and
            at least one out of it.
        temperature: T > 0.

    Returns:
        ``which``, ``inside``, ``outside`` and ``a``, each ``[*batch]`` in working precision.

    Raises:
        ValueError: shapes differ, temperature is invalid, or a row has all classes or none.
    """
    x, y = _tempered(student_logits, teacher_logits, temperature)
    if members.shape != x.shape:
        raise ValueError(
            f"members have shape {tuple(members.shape)}; expected that of the logits, "
            f"{tuple(x.shape)}"
        )
    if not bool((members.any(dim=-1) & ~members.all(dim=-1)).all()):
        raise ValueError("members: expected at least one class in the set and one out of it")
    parts = [(logits.where(side, -torch.inf)) for logits in (x, y) for side in (members, ~members)]
    mass = [part.logsumexp(dim=-1, keepdim=True) for part in parts]
    inside_q, outside_q, inside_p, outside_p = (
        part - total for part, total in zip(parts, mass, strict=True)
    )
    pair_q, pair_p = (torch.cat(two, dim=-1).log_softmax(dim=-1) for two in (mass[:2], mass[2:]))
    which = _kl_rows(pair_q, pair_p, pair_p.exp())
    inside = _kl_rows(inside_q, inside_p, inside_p.exp())
    outside = _kl_rows(outside_q, outside_p, outside_p.exp())
    return which, inside, outside, pair_p[..., 0].exp()


def cakd(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    *,
    strong: int = 5,
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    by_mass: bool = False,
    temperature: float = 4.0,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """T² (α · BCD + β · SCD + γ · WCD), after Zhang et al. (2410.14741).

    BCD is the KL divergence of (strongly correlated classes, all others); SCD and WCD are those
    among the strongly correlated classes and among the others (``split_kl``).

    Args:
        student_logits: ``[*batch, classes]``.
        teacher_logits: ``[*batch, classes]``; fixed, receives no gradient.
        strong: how many classes, those that the teacher ranks highest, are strongly correlated; at
            least 1, and at most all but one are taken.
        alpha: weight of BCD, at least 0.
        beta: weight of SCD, at least 0.
        gamma: weight of WCD, at least 0.
        by_mass: weigh SCD and WCD by the teacher's mass in their classes too; with weights of 1
            the sum is then plain KD.
        temperature: T > 0.
        reduction: see ``Reduction``.

    Raises:
        ValueError: shapes differ, fewer than 2 classes, strong below 1, temperature or reduction is
            invalid.
    """
    check_min_classes(student_logits, 2)
    if strong < 1:
        raise ValueError(f"strong is {strong}; expected a whole number of at least 1")
    classes = teacher_logits.shape[-1]
    top = teacher_logits.detach().topk(min(strong, classes - 1), dim=-1).indices
    members = torch.zeros_like(teacher_logits, dtype=torch.bool).scatter(-1, top, True)
    which, inside, outside, mass = split_kl(
        student_logits, teacher_logits, members, temperature=temperature
    )
    if by_mass:
        inside, outside = mass * inside, (1 - mass) * outside
    rows = temperature**2 * (alpha * which + beta * inside + gamma * outside)
    return reduce_rows(rows, classes, reduction).to(result_dtype(student_logits))
