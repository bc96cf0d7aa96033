"""Named losses on logits and outputs, thin over the divergences."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional._common import (
    Reduction,
    check_same_shape,
    reduce_rows,
    result_dtype,
    working_dtype,
)
from limbeck.functional.divergence import kl_divergence


def kd(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    *,
    temperature: float = 4.0,
    scale_by_temperature_squared: bool = True,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """Knowledge distillation of Hinton et al. (1503.02531): T² · KL(teacher ‖ student) at T.

    ``reduction="elementwise"`` is what several codes use (Tf-KD, DRKD): ``classes`` times smaller,
    so that their published weights mean something else under ``batchmean``.
    Arguments, result and errors as in ``kl_divergence``.

    >>> logits = torch.tensor([[2.0, 0.0, -1.0]])
    >>> kd(logits, logits)
    tensor(0.)
    """
    return kl_divergence(
        student_logits,
        teacher_logits,
        temperature=temperature,
        scale_by_temperature_squared=scale_by_temperature_squared,
        reduction=reduction,
    )


def dml(
    student_logits: Float[Tensor, "*batch classes"],
    peer_logits: Sequence[Float[Tensor, "*batch classes"]],
    *,
    average: bool = False,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """Deep mutual learning (Zhang et al. 1706.00384): sum over peers j of KL(p_j ‖ p_student).

    Args:
        student_logits: ``[*batch, classes]`` of the network that learns.
        peer_logits: the same of each other network; fixed, they receive no gradient. None at all
            costs 0.
        average: divide by the number of peers, as the paper does; its code sums (the default).
        reduction: see ``Reduction``.

    Raises:
        ValueError: shapes differ or reduction is unknown.
    """
    if not peer_logits:  # one network has nobody to learn from
        return kl_divergence(student_logits, student_logits, reduction=reduction)
    terms = [kl_divergence(student_logits, peer, reduction=reduction) for peer in peer_logits]
    total = torch.stack(terms).sum(dim=0)
    return total / len(terms) if average else total


def kd_multilabel(
    student_logits: Float[Tensor, "*batch outputs"],
    teacher_logits: Float[Tensor, "*batch outputs"],
    *,
    temperature: float = 1.0,
    scale_by_temperature_squared: bool = True,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """T² · KL of independent yes/no outputs, Bernoulli(σ(teacher/T)) ‖ Bernoulli(σ(student/T)).

    ``σ(z)`` is the softmax of ``(z, 0)``, so this is ``kl_divergence`` of two classes per output.

    Args:
        student_logits: ``[*batch, outputs]``.
        teacher_logits: ``[*batch, outputs]``; fixed, receives no gradient.
        temperature: T > 0.
        scale_by_temperature_squared: multiply by T².
        reduction: ``batchmean`` sums over outputs, ``elementwise`` averages them too.

    Raises:
        ValueError: as in ``kl_divergence``.
    """
    check_same_shape(student_logits, teacher_logits, "logits")
    per_output = kl_divergence(
        torch.stack((student_logits, torch.zeros_like(student_logits)), dim=-1),
        torch.stack((teacher_logits, torch.zeros_like(teacher_logits)), dim=-1),
        temperature=temperature,
        scale_by_temperature_squared=scale_by_temperature_squared,
        reduction="none",
    )
    return reduce_rows(per_output.sum(dim=-1), student_logits.shape[-1], reduction)


def kd_regression(
    student_outputs: Float[Tensor, "*batch outputs"],
    teacher_outputs: Float[Tensor, "*batch outputs"],
    *,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """Squared error to the teacher's output, ``(student - teacher)²``.

    Args:
        student_outputs: ``[*batch, outputs]``.
        teacher_outputs: ``[*batch, outputs]``; fixed, receives no gradient.
        reduction: ``batchmean`` sums over outputs, ``elementwise`` averages them too.

    Raises:
        ValueError: shapes differ or reduction is unknown.
    """
    check_same_shape(student_outputs, teacher_outputs, "outputs")
    dtype = working_dtype(student_outputs, teacher_outputs)
    rows = ((student_outputs.to(dtype) - teacher_outputs.detach().to(dtype)) ** 2).sum(dim=-1)
    loss = reduce_rows(rows, student_outputs.shape[-1], reduction)
    return loss.to(result_dtype(student_outputs))
