"""What a teacher does to the size of each sample's gradient (Tang et al. 2002.03532)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.functional._common import (
    IGNORE,
    check_class_indices,
    check_min_classes,
    check_positive,
    check_same_shape,
)


def gradient_rescaling(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    *,
    share: float = 0.5,
    temperature: float = 1.0,
) -> Float[Tensor, " batch"]:
    """w_t: KD's gradient at the label's logit over that of cross-entropy, for each sample.

    Of the loss ``(1 - λ) H(y, q) + λ H(p̃, q̃)`` (no T²), with tildes for softmax at T,

    ``w_t = (1 - λ) + (λ / T) (p̃_t - q̃_t) / (1 - q_t)``.

    Samples of whose label the teacher is surer than the student get larger gradients. It is
    1 - λ where both are equally sure, 1 where the teacher gives the label all (T = 1), and may be
    negative.

    Args:
        student_logits: ``[batch, classes]``, at least 2 classes.
        teacher_logits: ``[batch, classes]``.
        targets: class indices ``[batch]``; NaN for a sample without a label (-100).
        share: λ in [0, 1].
        temperature: T > 0, of both sides.

    Returns:
        float64 ``[batch]``, without a gradient.

    Raises:
        ValueError: shapes differ, fewer than 2 classes, or a setting out of range.

    >>> logits = torch.tensor([[2.0, 0.0, -1.0]])
    >>> gradient_rescaling(logits, logits, torch.tensor([0]), share=0.3)
    tensor([0.7000], dtype=torch.float64)
    """
    student, teacher, label = _checked(student_logits, teacher_logits, targets, share, temperature)
    ours, theirs = (_log_rest(z / temperature, label) for z in (student, teacher))
    # (p̃ - q̃) / (1 - q) by the logarithms of what is left for the others: exact where p is near 1
    gain = -torch.expm1(theirs - ours) * (ours - _log_rest(student, label)).exp()
    weight = (1 - share) + share / temperature * gain
    return torch.where(targets == IGNORE, torch.nan, weight)


def gradient_ratio(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    *,
    share: float = 0.5,
    temperature: float = 1.0,
) -> Float[Tensor, " batch"]:
    """The same of whole gradients: ``Σ_i |∂L_KD/∂z_i| / Σ_i |∂L_CE/∂z_i|`` for each sample.

    Equal to the size of ``gradient_rescaling`` where KD's gradient has one sign on all classes but
    the label, else larger. Arguments, result and errors as there.
    """
    student, teacher, label = _checked(student_logits, teacher_logits, targets, share, temperature)
    q = student.softmax(dim=1)
    soft = (student / temperature).softmax(dim=1) - (teacher / temperature).softmax(dim=1)
    plain = q.scatter(1, label[:, None], -_log_rest(student, label).exp()[:, None])  # q - y
    kd = (1 - share) * plain + share / temperature * soft
    ratio = kd.abs().sum(dim=1) / plain.abs().sum(dim=1)
    return torch.where(targets == IGNORE, torch.nan, ratio)


def _checked(
    student: Tensor, teacher: Tensor, targets: Tensor, share: float, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    check_same_shape(student, teacher, "logits")
    check_class_indices(student, targets)
    check_min_classes(student, 2)
    check_positive("temperature", temperature)
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; expected a number in [0, 1]")
    label = targets.long().masked_fill(targets == IGNORE, 0)
    return student.detach().double(), teacher.detach().double(), label


def _log_rest(logits: Tensor, label: Tensor) -> Tensor:
    """Return log(1 - softmax(logits)) at the label, ``[batch]``."""
    others = logits.scatter(1, label[:, None], -torch.inf).logsumexp(dim=1)
    return others - logits.logsumexp(dim=1)
