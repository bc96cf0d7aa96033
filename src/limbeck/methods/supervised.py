"""What methods whose knowledge terms look at labels share."""

from __future__ import annotations

from torch import Tensor

from limbeck.data.batch import Batch
from limbeck.errors import MethodError


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
