"""View: which samples of a set are used, in which order, with which inputs or targets replaced."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from limbeck.data.batch import Batch, has_label
from limbeck.data.samples import Samples, targets_of
from limbeck.errors import DataError


@dataclass(frozen=True, eq=False)
class View:
    """A selection over samples, never changed in place.

    Methods that select, mix or relabel samples (KCD: Li 2022, section 3) return a new view; the
    set beneath stays as it was, and ``Batch.index`` stays the position in it.

    Attributes:
        samples: the base set.
        indices: int64 ``[len]``: positions in the base set, in order; may repeat.
        replaced_targets: ``[len(base), ...]`` targets used instead of the set's own; None: own.
        overlay_rows: int64 ``[len(base)]``: row of ``overlay_inputs``, -1 where a sample is its
            own; None: nothing is replaced.
        overlay_inputs: ``[rows, ...]`` raw inputs that replace those of the base set.
    """

    samples: Samples
    indices: Tensor
    replaced_targets: Tensor | None = None
    overlay_rows: Tensor | None = None
    overlay_inputs: Tensor | None = None

    @classmethod
    def of(cls, samples: Samples, indices: Tensor | None = None) -> View:
        """Return the view of all samples in order, or of ``indices``."""
        return cls(samples, torch.arange(len(samples)) if indices is None else indices)

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def targets(self) -> Tensor:
        """Targets in the view's order, ``[len, ...]``."""
        return self.base_targets.index_select(0, self.indices)

    @property
    def base_targets(self) -> Tensor:
        """Targets of the whole base set, ``[len(base), ...]``, with the replaced ones."""
        if self.replaced_targets is not None:
            return self.replaced_targets
        return targets_of(self.samples)

    @cached_property
    def labelled(self) -> Tensor:
        """Bool ``[len]``: which positions have a label."""
        return has_label(self.targets)

    @property
    def changed(self) -> Tensor | None:
        """Bool ``[len(base)]``: samples whose inputs are replaced; None: none is."""
        return None if self.overlay_rows is None else self.overlay_rows >= 0

    def fetch(self, positions: Tensor, seed: int = 0) -> Batch:
        """Return the raw batch at ``positions`` of this view (``Batch.index``: base positions)."""
        return self.at(self.indices.index_select(0, positions), seed)

    def at(self, index: Tensor, seed: int = 0) -> Batch:
        """Return the raw batch at base positions ``index``, overlay and targets applied."""
        inputs, targets = self.samples.fetch(index, seed)
        if self.replaced_targets is not None:
            targets = self.replaced_targets.index_select(0, index)
        changed = None
        if self.overlay_rows is not None and self.overlay_inputs is not None:
            rows = self.overlay_rows.index_select(0, index)
            changed = rows >= 0
            if bool(changed.any()):
                inputs = inputs.clone()
                inputs[changed] = self.overlay_inputs.index_select(0, rows[changed])
        return Batch(inputs, targets, index, changed=changed)

    def select(self, indices: Tensor) -> View:
        """Return the view of these base positions (int64, in order, may repeat)."""
        _check_positions(indices, len(self.samples))
        return dataclasses.replace(self, indices=indices)

    def with_targets(self, targets: Tensor) -> View:
        """Return the view with other targets, ``[len(base), ...]`` (labels dropped, noise)."""
        if len(targets) != len(self.samples):
            raise DataError(f"targets: expected {len(self.samples)} rows, got {len(targets)}")
        return dataclasses.replace(self, replaced_targets=targets)

    def with_overlay(self, index: Tensor, inputs: Tensor) -> View:
        """Return the view with raw inputs replaced at base positions ``index``.

        Earlier replacements at other positions stay. Where ``index`` repeats, the last one holds.

        Args:
            index: int64 ``[rows]``, positions in the base set.
            inputs: ``[rows, ...]`` in the type and shape of the base set's inputs.

        Raises:
            DataError: another shape or type, positions outside the set, or inputs by name.
        """
        _check_positions(index, len(self.samples))
        if len(index) == 0:
            return self
        _check_like(inputs, self.samples.fetch(index[:1])[0], len(index))
        rows = torch.full((len(self.samples),), -1, dtype=torch.int64)
        kept = inputs.new_empty((0, *inputs.shape[1:]))
        if self.overlay_rows is not None and self.overlay_inputs is not None:
            stays = self.overlay_rows.clone()
            stays[index] = -1
            places = (stays >= 0).nonzero().squeeze(1)
            kept = self.overlay_inputs.index_select(0, stays[places])
            rows[places] = torch.arange(len(places))
        final = {place: row for row, place in enumerate(index.tolist())}
        rows[torch.tensor(list(final))] = torch.arange(len(kept), len(kept) + len(final))
        new = inputs.index_select(0, torch.tensor(list(final.values())))
        return dataclasses.replace(
            self, overlay_rows=rows, overlay_inputs=torch.cat([kept, new.detach()])
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return what this view adds to its base set as a flat mapping of tensors."""
        names = ("indices", "replaced_targets", "overlay_rows", "overlay_inputs")
        state = {name: getattr(self, name) for name in names}
        return {name: value for name, value in state.items() if value is not None}

    @classmethod
    def from_state_dict(cls, samples: Samples, state: Mapping[str, Tensor]) -> View:
        """Return the view that ``state_dict`` described, over the same base set."""
        view = cls(samples, **{name: value.clone() for name, value in state.items()})
        _check_positions(view.indices, len(samples))
        return view


def _check_positions(index: Tensor, size: int) -> None:
    if index.dtype != torch.int64 or index.dim() != 1:
        raise DataError(f"positions: expected int64 [n], got {index.dtype} {list(index.shape)}")
    if len(index) and (int(index.min()) < 0 or int(index.max()) >= size):
        wrong = int(index.min()) if int(index.min()) < 0 else int(index.max())
        raise DataError(f"positions: {wrong} is outside of a set of {size} samples")


def _check_like(inputs: Tensor, sample: Any, rows: int) -> None:
    if not isinstance(sample, Tensor):
        raise DataError("an overlay needs inputs that are one tensor, not inputs by name")
    if inputs.shape != (rows, *sample.shape[1:]) or inputs.dtype != sample.dtype:
        raise DataError(
            f"overlay inputs: expected {sample.dtype} {[rows, *sample.shape[1:]]}, got "
            f"{inputs.dtype} {list(inputs.shape)}"
        )
