"""Inputs as a teacher expects them, where its statistics differ from the student's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from limbeck.data.normalize import Normalize, renormalize
from limbeck.errors import TeacherError


class InputStatistics:
    """Moves inputs from the data's statistics to a teacher's own.

    A teacher trained under other statistics than the student's silently sees wrong inputs in most
    distillation code; here its own are stated once and applied to every batch.

    Args:
        own: what the teacher expects; None: unknown, inputs are passed as they are.
        name: the teacher's name, for messages.
    """

    def __init__(self, own: Normalize | None, name: str) -> None:
        if own is not None and not isinstance(own, Normalize):
            raise TeacherError(
                f"teachers.{name}.normalization: expected Normalize(mean, std) or None, got "
                f"{type(own).__name__}"
            )
        self.own = own
        self._data: Normalize | None = None
        self._bound = False

    def bind(self, data: Normalize | None) -> None:
        """Learn the statistics by which inputs are normalised; None: by none."""
        self._data, self._bound = data, True

    @property
    def changes(self) -> bool:
        """Whether inputs are changed at all."""
        return self._bound and self.own is not None and self.own != (self._data or Normalize())

    def __call__(self, inputs: Any, name: str) -> Any:
        """Return the inputs under the teacher's statistics; never writes to what it is given.

        Raises:
            TeacherError: the statistics differ and the inputs are not one tensor of floats.
        """
        if not self.changes:
            return inputs
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            kind = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
            raise TeacherError(
                f"teachers.{name}.normalization: cannot re-normalise inputs of type {kind}, "
                "expected one float tensor; leave normalization out"
            )
        return renormalize(inputs, self._data, self.own)

    def key(self) -> str:
        """Return what a fingerprint must know of the statistics."""
        return "as given" if self.own is None else f"{self.own.mean}|{self.own.std}"

    def describe(self) -> str:
        """Return in words which statistics the teacher sees."""
        if self.own is None:
            return "inputs as the student's (the teacher's statistics are unknown)"
        if not self._bound:
            return f"inputs as given until bound to data (its own: {_words(self.own)})"
        if not self.changes:
            return "inputs as the student's (same statistics)"
        before = _words(self._data) if self._data else "[0, 1]"
        return f"inputs re-normalised from {before} to {_words(self.own)}"


def _words(stats: Normalize) -> str:
    mean, std = (", ".join(f"{v:.4g}" for v in values) for values in (stats.mean, stats.std))
    return f"mean {mean} std {std}"


def copy_inputs(inputs: Any) -> Any:
    """Return inputs in which every tensor is a copy, so that a stranger may write to them."""
    if isinstance(inputs, Tensor):
        return inputs.detach().clone()
    if isinstance(inputs, Mapping):
        return {key: copy_inputs(value) for key, value in inputs.items()}
    if isinstance(inputs, list | tuple):
        return type(inputs)(copy_inputs(value) for value in inputs)
    return inputs
