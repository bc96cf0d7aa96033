"""What the equations share: shape checks, working precision, reductions."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

IGNORE = -100
"""Class index of a sample without a label (torch's own ``ignore_index``)."""

Reduction = Literal["batchmean", "elementwise", "sum", "none"]
"""How per-sample losses become the result.

``batchmean``: sum over classes, mean over samples. ``elementwise``: mean over samples and classes
(``batchmean`` divided by the number of classes). ``sum``: sum over both. ``none``: one per sample.
"""

_HALF = (torch.float16, torch.bfloat16)


def check_same_shape(student: Tensor, teacher: Tensor, what: str) -> None:
    """Raise ValueError unless both tensors have the same shape (nothing is broadcast)."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"{what}: student has shape {tuple(student.shape)}, teacher has shape "
            f"{tuple(teacher.shape)}; expected the same shape"
        )


def check_choice(name: str, value: str, literal: object) -> None:
    """Raise ValueError unless ``value`` is one of the strings of a Literal type."""
    choices = get_args(literal)
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}")


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a positive, finite number."""
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} is {value}; expected a positive number")


def check_class_indices(logits: Tensor, targets: Tensor) -> None:
    """Raise ValueError unless there is one class index for each row of logits."""
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"targets have shape {tuple(targets.shape)}; expected {tuple(logits.shape[:-1])}, one "
            f"class index for each row of logits of shape {tuple(logits.shape)}"
        )


def check_min_classes(logits: Tensor, fewest: int) -> None:
    """Raise ValueError where there are too few classes for the equation to say anything."""
    if logits.shape[-1] < fewest:
        raise ValueError(f"logits have {logits.shape[-1]} classes; expected at least {fewest}")


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the precision to compute in: one step wider than the tensors.

    float32 for half precision, float64 otherwise (float32 on devices that have no float64).
    """
    half = True
    for tensor in tensors:
        if tensor.is_mps:
            return torch.float32
        half = half and tensor.dtype in _HALF
    return torch.float32 if half else torch.float64


def float64(values: Tensor, targets: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Values in float64 and class indices of the samples kept (on the CPU where need be)."""
    if values.device.type == "mps":
        values, targets, kept = values.cpu(), targets.cpu(), kept.cpu()
    return values[kept].double(), targets[kept].long()


def check_predictions(values: Tensor, targets: Tensor) -> None:
    """Raise ValueError unless there is one class index for each row of values."""
    if values.ndim != 2 or values.shape[:1] != targets.shape:
        raise ValueError(
            f"predictions have shape {tuple(values.shape)}, targets have shape "
            f"{tuple(targets.shape)}; expected [batch, classes] and [batch]"
        )


def result_dtype(tensor: Tensor) -> torch.dtype:
    """Return the precision of a result: the tensor's own, but at least float32."""
    return torch.float32 if tensor.dtype in _HALF else tensor.dtype


def reduce_rows(rows: Tensor, num_classes: int, reduction: Reduction) -> Tensor:
    """Reduce per-sample sums over the classes. Nothing to average gives 0.0 with a graph."""
    divisor = divisor_of(rows.numel(), num_classes, reduction)
    if reduction == "none":
        return rows
    total = rows.sum()
    return total if reduction == "sum" else total / divisor


def divisor_of(num_samples: int, num_classes: int, reduction: Reduction) -> int:
    """Return what the sum over all samples is divided by.

    Raises:
        ValueError: reduction is unknown.
    """
    count = max(num_samples, 1)
    if reduction == "batchmean":
        return count
    check_choice("reduction", reduction, Reduction)
    return count * num_classes if reduction == "elementwise" else 1
