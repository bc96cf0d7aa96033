"""What the engine and methods that look at labels share."""

from __future__ import annotations

from torch import Tensor

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError


def task_loss(kind: str, logits: Tensor, targets: Tensor) -> Tensor:
    """Return the task term: the mean over the labelled samples; 0 where none is."""
    if kind == "classification":
        return functional.cross_entropy(logits, targets)
    if kind == "multilabel":
        return functional.binary_cross_entropy(logits, targets)
    return functional.squared_error(logits, targets)


def labels_of(batch: Batch, method: str) -> Tensor:
    """Return the class indices ``[batch]`` of a batch, -100 where a sample has no label.

    Raises:
        MethodError: the batch has no targets at all.
    """
    if batch.targets is None:
        raise MethodError(
            f"method {method}: needs the label of each sample beside the two outputs, got none; "
            "pass the targets (or a Batch with targets)"
        )
    return batch.targets
