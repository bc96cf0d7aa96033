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
        read_off: whether ``own`` was read off the network's configuration and not said by a
            person. It is then given up, and ``describe`` says why, where the data cannot be moved
            to it: they are no images, or outside of [0, 1] under statistics that nobody stated.
    """

    def __init__(self, own: Normalize | None, name: str, *, read_off: bool = False) -> None:
        if own is not None and not isinstance(own, Normalize):
            raise TeacherError(
                f"teachers.{name}.normalization: expected Normalize(mean, std) or None, got "
                f"{type(own).__name__}"
            )
        self.own = own
        self._read_off = read_off and own is not None
        self._given_up = ""
        self._data: Normalize | None = None
        self._bound = False

    def bind(self, data: Normalize | None, example: Any = None) -> None:
        """Learn the statistics by which inputs are normalised; None: by none.

        Args:
            data: the statistics.
            example: inputs of some samples; needed where the teacher's own were read off.
        """
        self._data, self._bound = data, True
        if self._read_off and self.own is not None:
            self._fit_to(example)

    def _fit_to(self, example: Any) -> None:
        """Bring what was read off to the data's channels, or give it up."""
        assert self.own is not None
        own = self.own
        if not isinstance(example, Tensor) or not example.is_floating_point() or example.dim() != 4:
            self._give_up("inputs are no images")
            return
        if self._data is None and not _in_unit_range(example):
            self._give_up(
                "inputs are not in [0, 1] and their own statistics are not known to Limbeck; say "
                "normalization= where they need moving"
            )
            return
        channels = example.shape[1]
        if channels == 1 and len(own.mean) == 3:  # a first layer summed over its channels
            own = Normalize((sum(own.mean) / 3,), (sum(own.std) / 3,))
        if len(own.mean) not in (1, channels):
            self._give_up(f"it has {len(own.mean)} channels, the inputs {channels}")
            return
        self.own = own

    def _give_up(self, reason: str) -> None:
        assert self.own is not None
        self._given_up, self.own = f"; not moved to its {_words(self.own)}: {reason}", None

    @property
    def stated(self) -> Normalize | None:
        """What a person said to be the teacher's own; None: nothing, or it was read off."""
        return None if self._read_off else self.own

    @property
    def changes(self) -> bool:
        """Whether inputs are changed at all."""
        if not self._bound or self.own is None:
            return False
        return not self.own.same_as(self._data or Normalize())

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
        if self.own is None and self._given_up:
            return f"inputs as the student's{self._given_up}"
        if self.own is None:
            return "inputs as the student's (the teacher's statistics are unknown)"
        if not self._bound:
            return f"inputs as given until bound to data (its own: {_words(self.own)})"
        if not self.changes:
            return "inputs as the student's (same statistics)"
        before = _words(self._data) if self._data else "[0, 1]"
        source = " (read off its pretrained_cfg)" if self._read_off else ""
        return f"inputs re-normalised from {before} to {_words(self.own)}{source}"

    @property
    def noteworthy(self) -> bool:
        """Whether a person should be told before the first step."""
        return self.changes or bool(self._given_up)


def _in_unit_range(inputs: Tensor) -> bool:
    if inputs.numel() == 0:
        return True
    return bool(inputs.min() >= -1e-3) and bool(inputs.max() <= 1 + 1e-3)


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
