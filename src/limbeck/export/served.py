"""The student as it leaves the house: inputs in, a tensor of logits out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.data.bundle import DataBundle
from limbeck.errors import ExportError
from limbeck.taps.outputs import as_outputs

Forward = Callable[[nn.Module, Any], Any]
INPUT, OUTPUT = "inputs", "logits"


class Served(nn.Module):
    """A module whose output is logits alone, whatever form the student's own answer has.

    Args:
        student: the trained module.
        forward: ``forward(student, batch)`` where it is not called as ``student(inputs)``.
    """

    def __init__(self, student: nn.Module, forward: Forward | None = None) -> None:
        super().__init__()
        self.student = student
        self.how = forward

    def forward(self, inputs: Any) -> Tensor:
        """Return logits ``[batch, outputs]``."""
        if self.how is not None:
            said = self.how(self.student, Batch(inputs))
        elif isinstance(inputs, Mapping):
            said = self.student(**inputs)
        else:
            said = self.student(inputs)
        return as_outputs(said).logits


class ServedByName(nn.Module):
    """The same for inputs by name: each is an argument of its own.

    Args:
        served: takes a mapping.
        names: the names, in the data's order.
    """

    def __init__(self, served: Served, names: Sequence[str]) -> None:
        super().__init__()
        self.served = served

        def forward(*inputs: Tensor, **named: Tensor) -> Tensor:
            logits: Tensor = served({**dict(zip(names, inputs, strict=False)), **named})
            return logits

        # torch.export describes what is free by argument, and cannot look into **named.
        places = [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names
        ]
        forward.__signature__ = inspect.Signature(places)  # type: ignore[attr-defined]
        self.forward = forward


class Preprocessed(nn.Module):
    """Scaling and normalisation in front of a network, as the run's evaluation did them.

    Args:
        model: takes normalised inputs ``[batch, *shape]``.
        data: the run's data.

    ``forward`` takes raw inputs: uint8 in 0..255, or floats in [0, 1].
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, data: DataBundle) -> None:
        super().__init__()
        scale, shift = _affine(data)
        shape = (-1, *[1] * (len(data.input_shape) - 1)) if len(scale) > 1 else (-1,)
        self.model = model
        self.register_buffer("scale", torch.tensor(scale).view(shape))
        self.register_buffer("shift", torch.tensor(shift).view(shape))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, outputs]``."""
        logits: Tensor = self.model(inputs.to(self.scale.dtype) * self.scale + self.shift)
        return logits


def _affine(data: DataBundle) -> tuple[list[float], list[float]]:
    """Return (a, b) with a * raw + b what the student was trained on."""
    pixels, stats = is_pixels(data), data.normalization
    if stats is None and not pixels:
        raise ExportError(
            "with_preprocessing: the inputs of this run are taken as they come; there is no "
            "scaling and no normalisation to build in"
        )
    unit = 1 / 255 if pixels else 1.0
    return stats.affine(unit) if stats is not None else ([unit], [0.0])


def is_pixels(data: DataBundle) -> bool:
    """Whether the raw inputs are uint8, which evaluation scales to [0, 1]."""
    raw = data.splits["train"].fetch(torch.zeros(1, dtype=torch.int64)).inputs
    return isinstance(raw, Tensor) and raw.dtype == torch.uint8
