"""Repairing a teacher that is wrong: its answer is edited towards the label.

All functions give new tensors; samples on which the teacher is right, and samples without a label
(-100), stay as they are. The order of classes is decided by the first largest entry, so ties are
settled as ``argmax`` settles them.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.functional._common import IGNORE, check_choice, check_class_indices

Rectification = Literal["swap", "one_hot_average", "pairwise"]


def is_wrong(
    teacher: Float[Tensor, "*batch classes"], targets: Int[Tensor, "*batch"]
) -> Bool[Tensor, "*batch"]:
    """Whether the teacher's largest entry is not the label; False without a label.

    Args:
        teacher: logits or probabilities ``[*batch, classes]``.
        targets: class indices ``[*batch]``.

    Raises:
        ValueError: shapes do not fit.
    """
    check_class_indices(teacher, targets)
    return (teacher.argmax(dim=-1) != targets) & (targets != IGNORE)


def swap_with_label(
    teacher: Float[Tensor, "*batch classes"], targets: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch classes"]:
    """Exchange the largest entry with the label's, where they differ.

    Probability shift of Wen et al. (1911.07471), the rectifier of DR-KD (Amik et al. 2201.11319)
    and "swap" of Zhang et al. (2412.09874). Softmax commutes with a permutation: swapping logits
    or probabilities, before or after a temperature, is the same.

    >>> swap_with_label(torch.tensor([[0.1, 0.6, 0.3]]), torch.tensor([2]))
    tensor([[0.1000, 0.3000, 0.6000]])
    """
    wrong, label, top = _places(teacher, targets)
    high, low = teacher.gather(-1, top), teacher.gather(-1, label)
    swapped = teacher.scatter(-1, top, low).scatter(-1, label, high)
    return torch.where(wrong, swapped, teacher)


def replace_by_smoothed_label(
    teacher_probs: Float[Tensor, "*batch classes"],
    targets: Int[Tensor, "*batch"],
    *,
    epsilon: float = 0.1,
) -> Float[Tensor, "*batch classes"]:
    """Where the teacher is wrong, put ``(1-ε) onehot + ε/classes`` in its place.

    LSR of Wen et al. (1911.07471).

    Args:
        teacher_probs: ``[*batch, classes]``.
        targets: class indices ``[*batch]``.
        epsilon: in [0, 1).
    """
    wrong, label, _ = _places(teacher_probs, targets)
    even = torch.full_like(teacher_probs, epsilon / teacher_probs.shape[-1])
    smoothed = even.scatter_add(-1, label, torch.full_like(label, 1, dtype=even.dtype) - epsilon)
    return torch.where(wrong, smoothed, teacher_probs)


def rectify(
    teacher_probs: Float[Tensor, "*batch classes"],
    targets: Int[Tensor, "*batch"],
    *,
    mode: Rectification = "pairwise",
) -> Float[Tensor, "*batch classes"]:
    """Bias rectification of Zhang et al. (2412.09874) on probabilities.

    ``swap``: see ``swap_with_label``. ``one_hot_average``: ``(p + onehot) / 2``. ``pairwise``:
    label and largest class move half way to 1 and 0, and are scaled to the mass that they had
    together; all others stay. ``pairwise`` puts the label above the class that was largest, though
    not always above a strong third one.

    Args:
        teacher_probs: ``[*batch, classes]``.
        targets: class indices ``[*batch]``.
        mode: which of the three.

    Raises:
        ValueError: shapes do not fit, or an unknown mode.
    """
    check_choice("mode", mode, Rectification)
    if mode == "swap":
        return swap_with_label(teacher_probs, targets)
    wrong, label, top = _places(teacher_probs, targets)
    if mode == "one_hot_average":
        one = torch.ones_like(label, dtype=teacher_probs.dtype)
        return torch.where(
            wrong, torch.scatter_add(teacher_probs, -1, label, one) / 2, teacher_probs
        )
    right, false = teacher_probs.gather(-1, label), teacher_probs.gather(-1, top)
    share = (right + false) / (1 + right + false)
    moved = teacher_probs.scatter(-1, label, (1 + right) * share).scatter(-1, top, false * share)
    return torch.where(wrong, moved, teacher_probs)


def _places(teacher: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where it is wrong, the label's index and the index of the largest entry, ``[*batch, 1]``."""
    wrong = is_wrong(teacher, targets)[..., None]
    label = torch.where(targets == IGNORE, 0, targets).long()[..., None]
    return wrong, label, teacher.argmax(dim=-1, keepdim=True)
