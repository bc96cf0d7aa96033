"""Losses on labels. Samples without a label are skipped, and cost nothing."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from limbeck.functional._common import (
    IGNORE,
    Reduction,
    check_choice,
    check_class_indices,
    result_dtype,
    working_dtype,
)

Smoothing = Literal["uniform", "off_label"]


def cross_entropy(
    logits: Float[Tensor, "*batch classes"],
    targets: Int[Tensor, "*batch"],
    *,
    label_smoothing: float = 0.0,
    ignore_index: int = IGNORE,
    reduction: Literal["batchmean", "sum", "none"] = "batchmean",
) -> Float[Tensor, "..."]:
    """Cross-entropy with class labels.

    Args:
        logits: ``[*batch, classes]``.
        targets: class indices ``[*batch]``; ``ignore_index`` where a sample has no label.
        label_smoothing: ε in [0, 1]; the target is ``(1-ε) onehot + ε/classes``.
        ignore_index: the index that stands for "no label".
        reduction: ``batchmean`` is the mean over labelled samples, 0.0 (with a graph) where none
            is; ``none`` gives 0 for a sample without a label.

    Raises:
        ValueError: shapes do not fit, or reduction is unknown.
        IndexError: a label is not in [0, classes).
    """
    check_choice("reduction", reduction, Literal["batchmean", "sum", "none"])
    check_class_indices(logits, targets)
    rows = F.cross_entropy(
        logits.to(working_dtype(logits)).flatten(end_dim=-2),
        targets.long().flatten(),
        ignore_index=ignore_index,
        reduction="none",
        label_smoothing=label_smoothing,
    ).reshape(targets.shape)
    labelled = (targets != ignore_index).sum()
    return _finish(rows, labelled, logits, reduction)


def binary_cross_entropy(
    logits: Float[Tensor, "batch outputs"],
    targets: Float[Tensor, "batch outputs"],
    *,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """Cross-entropy of independent yes/no outputs, ``-y log σ(z) - (1-y) log σ(-z)``.

    Args:
        logits: ``[batch, outputs]``.
        targets: ``[batch, outputs]`` in [0, 1]; NaN where an output has no label. A sample is
            labelled if any of its outputs is.
        reduction: ``batchmean``: sum over labelled outputs, mean over labelled samples;
            ``elementwise``: mean over labelled outputs of all samples; ``sum``; ``none``: the sum
            over labelled outputs, per sample.

    Raises:
        ValueError: shapes differ or reduction is unknown.
    """
    z, y, known = _labelled(logits, targets)
    loss = -(y * F.logsigmoid(z) + (1 - y) * F.logsigmoid(-z))
    return _reduce_known(loss, known, logits, reduction)


def squared_error(
    outputs: Float[Tensor, "batch outputs"],
    targets: Float[Tensor, "batch outputs"],
    *,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """Squared error ``(output - target)²`` of a regression.

    Args:
        outputs: ``[batch, outputs]``.
        targets: ``[batch, outputs]``; NaN where an output has no label.
        reduction: as in ``binary_cross_entropy``; ``elementwise`` is the usual mean squared error.

    Raises:
        ValueError: shapes differ or reduction is unknown.
    """
    z, y, known = _labelled(outputs, targets)
    return _reduce_known((z - y) ** 2, known, outputs, reduction)


def label_smoothing_targets(
    targets: Int[Tensor, "*batch"],
    num_classes: int,
    eps: float,
    *,
    convention: Smoothing = "uniform",
    ignore_index: int = IGNORE,
) -> Float[Tensor, "*batch classes"]:
    """Smoothed one-hot targets, in one of the two conventions that papers use.

    Args:
        targets: class indices ``[*batch]``; ``ignore_index`` gives a row of zeros.
        num_classes: number of classes.
        eps: smoothing in [0, 1].
        convention: ``uniform``: ``(1-ε) onehot + ε/classes`` (Szegedy et al.; torch);
            ``off_label``: ``1-ε`` on the label and ``ε/(classes-1)`` on every other class (Yuan et
            al. 1909.11723). They are equal where ``ε_off = ε (classes-1)/classes``.
        ignore_index: the index that stands for "no label".

    Returns:
        Probabilities ``[*batch, num_classes]`` in torch's default precision.

    Raises:
        ValueError: unknown convention, eps outside [0, 1], too few classes.
    """
    check_choice("convention", convention, Smoothing)
    if not 0 <= eps <= 1:
        raise ValueError(f"eps is {eps}; expected a number in [0, 1]")
    least = 1 if convention == "uniform" else 2
    if num_classes < least:
        raise ValueError(f"num_classes is {num_classes}; {convention} smoothing needs {least}")
    off = eps / num_classes if convention == "uniform" else eps / (num_classes - 1)
    label = 1 - eps + off if convention == "uniform" else 1 - eps
    known = targets != ignore_index
    onehot = F.one_hot(targets.long().masked_fill(~known, 0), num_classes).bool()
    rows = torch.full(onehot.shape, off, device=targets.device).masked_fill(onehot, label)
    return rows.masked_fill(~known.unsqueeze(-1), 0.0)


def _labelled(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs and targets in working precision, 0 where there is no label, and where there is."""
    if outputs.shape != targets.shape:
        raise ValueError(
            f"outputs have shape {tuple(outputs.shape)}, targets have shape "
            f"{tuple(targets.shape)}; expected the same shape"
        )
    known = ~torch.isnan(targets)
    dtype = working_dtype(outputs)
    z = torch.where(known, outputs.to(dtype), 0.0)
    return z, torch.where(known, targets.detach().to(dtype), 0.0), known


def _reduce_known(loss: Tensor, known: Tensor, outputs: Tensor, reduction: Reduction) -> Tensor:
    check_choice("reduction", reduction, Reduction)
    per_output = torch.where(known, loss, 0.0).flatten(start_dim=1)
    known = known.flatten(start_dim=1)
    count = known.sum() if reduction == "elementwise" else known.any(dim=1).sum()
    return _finish(per_output.sum(dim=1), count, outputs, reduction)


def _finish(rows: Tensor, count: Tensor, outputs: Tensor, reduction: Reduction) -> Tensor:
    if reduction in ("batchmean", "elementwise"):
        rows = rows.sum() / count.clamp(min=1)
    elif reduction == "sum":
        rows = rows.sum()
    return rows.to(result_dtype(outputs))
