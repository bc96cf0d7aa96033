"""A few samples of the data, for checks before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from limbeck.data.batch import Batch
from limbeck.data.loader import eval_batches
from limbeck.errors import TeacherError
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data.bundle import DataBundle


def example_batch(
    data: DataBundle, device: torch.device | str = "cpu", size: int = 2, split: str = "train"
) -> Batch:
    """Return the first ``size`` samples of a part as evaluation would show them (fewer: all)."""
    view = data.splits[split]
    few = view.select(view.indices[:size])
    return next(eval_batches(few, size, data.augment_eval)).to(device)


def check_answer(name: str, outputs: Outputs, num_samples: int, num_outputs: int) -> None:
    """Raise TeacherError unless logits are ``[num_samples, ..., num_outputs]``."""
    shape = tuple(outputs.logits.shape)
    if len(shape) < 2 or shape[0] != num_samples:
        raise TeacherError(
            f"teachers.{name}: gives outputs of shape {list(shape)} for {num_samples} samples, "
            f"expected {[num_samples, num_outputs]}"
        )
    if shape[-1] != num_outputs:
        raise TeacherError(
            f"teachers.{name}: gives {shape[-1]} outputs, the data have {num_outputs} (class "
            "counts differ): choose a teacher of the same classes"
        )
