"""The virtual teacher of Tf-KD: a distribution made from the label by a rule."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.functional._common import (
    IGNORE,
    check_choice,
    check_class_indices,
    check_min_classes,
    check_positive,
    result_dtype,
    working_dtype,
)
from limbeck.functional.divergence import kl_divergence

Soften = Literal["probs", "power"]


def label_distribution(
    labels: Int[Tensor, "*batch"], num_classes: int, *, correct: float
) -> Float[Tensor, "*batch classes"]:
    """``p^d`` of Yuan et al. (1909.11723), eq. 8: ``correct`` on the label, the rest even.

    Args:
        labels: class indices ``[*batch]``, every one in [0, num_classes).
        num_classes: at least 2.
        correct: probability of the label, in (0, 1].

    Returns:
        float64 ``[*batch, num_classes]`` (float32 where there is no float64).
    """
    wide = torch.float32 if labels.device.type == "mps" else torch.float64
    even = (1 - correct) / (num_classes - 1)
    p = torch.full((*labels.shape, num_classes), even, dtype=wide, device=labels.device)
    return p.scatter(-1, labels.long()[..., None], correct)


def virtual_logits(
    targets: Int[Tensor, "*batch"],
    num_classes: int,
    *,
    correct: float = 0.99,
    temperature: float = 20.0,
    soften: Soften = "probs",
) -> Float[Tensor, "*batch classes"]:
    """Logits whose softmax is the softened virtual teacher of Yuan et al. (1909.11723), eq. 8.

    ``p^d`` is ``correct`` on the label and ``(1 - correct) / (classes - 1)`` elsewhere. ``probs``
    softens by softmax(p^d / τ), as the authors' code; ``power`` by p^d to the power 1/τ,
    normalised, which is what dividing logits by τ does.

    Args:
        targets: class indices ``[*batch]``; without a label (-100) all classes are alike.
        num_classes: at least 2.
        correct: probability of the label before softening, in (0, 1].
        temperature: τ > 0.
        soften: which of the two.

    Returns:
        float64 ``[*batch, num_classes]``.
    """
    check_choice("soften", soften, Soften)
    check_positive("temperature", temperature)
    known = targets != IGNORE
    p = label_distribution(torch.where(known, targets, 0), num_classes, correct=correct)
    z = p / temperature if soften == "probs" else p.log() / temperature
    return torch.where(known[..., None], z, 0.0)


def virtual_teacher_loss(
    student_logits: Float[Tensor, "*batch classes"],
    targets: Int[Tensor, "*batch"],
    *,
    correct: float = 0.99,
    temperature: float = 20.0,
    soften: Soften = "probs",
    student_temperature: float = 1.0,
    reduction: Literal["batchmean", "elementwise", "none"] = "elementwise",
) -> Float[Tensor, "..."]:
    """KL(virtual teacher ‖ softmax(student / T_S)), without T²: the regulariser of Tf-KD reg.

    Args:
        student_logits: ``[*batch, classes]``, at least 2 classes.
        targets: class indices ``[*batch]``; a sample without a label (-100) costs 0.
        correct: see ``virtual_logits``.
        temperature: see ``virtual_logits``.
        soften: see ``virtual_logits``.
        student_temperature: T_S, 1 in the authors' code, τ in the paper's eq. 9.
        reduction: the mean is over labelled samples (and over classes: ``elementwise``).

    Raises:
        ValueError: shapes do not fit, fewer than 2 classes, a temperature or choice is invalid.
    """
    check_choice("reduction", reduction, Literal["batchmean", "elementwise", "none"])
    check_class_indices(student_logits, targets)
    check_min_classes(student_logits, 2)
    check_positive("student_temperature", student_temperature)
    teacher = virtual_logits(
        targets,
        student_logits.shape[-1],
        correct=correct,
        temperature=temperature,
        soften=soften,
    )
    dtype = working_dtype(student_logits)
    student = student_logits.to(dtype) / student_temperature
    rows = kl_divergence(student, teacher.to(dtype), reduction="none")
    known = targets != IGNORE
    rows = torch.where(known, rows, 0.0).to(result_dtype(student_logits))
    if reduction == "none":
        return rows
    mean = rows.sum() / known.sum().clamp(min=1)
    return mean / student_logits.shape[-1] if reduction == "elementwise" else mean
