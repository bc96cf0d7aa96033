"""Samples: a set of samples that can be fetched by whole index tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from limbeck.data.batch import IGNORE, first_tensor
from limbeck.data.prefetch import prefetch
from limbeck.errors import DataError

CHUNK = 512  # samples at a time when a whole set is passed over


@runtime_checkable
class Samples(Protocol):
    """A set of samples addressed by position.

    ``fetch`` gives raw inputs (not augmented, not normalised; uint8 images stay uint8) and one
    target a sample: ``IGNORE`` or NaN where there is no label. ``seed`` fixes whatever randomness
    fetching has (a user's random transforms); sets without any ignore it. A set may also have an
    attribute ``targets`` (all targets as one tensor) and a method ``digest()`` (hash of content):
    both save a pass over the set.
    """

    def __len__(self) -> int:
        """Return the number of samples."""

    def fetch(self, index: Tensor, seed: int = 0) -> tuple[Any, Tensor]:
        """Return (inputs, targets) of the samples at ``index``, int64 ``[batch]``."""


class TensorSamples:
    """Samples held in memory as tensors: fetching is one gather.

    Args:
        inputs: ``[samples, ...]`` or a mapping of such tensors.
        targets: ``[samples]`` or ``[samples, outputs]``; None: no sample has a label.

    Raises:
        DataError: inputs and targets differ in length, or there are no inputs.
    """

    def __init__(
        self, inputs: Tensor | Mapping[str, Tensor], targets: Tensor | None = None
    ) -> None:
        self.inputs = inputs if isinstance(inputs, Tensor) else dict(inputs)
        tensors = [inputs] if isinstance(inputs, Tensor) else list(inputs.values())
        if not tensors:
            raise DataError("inputs: expected a tensor or a mapping of tensors, got an empty one")
        length = len(tensors[0])
        if targets is None:
            targets = torch.full((length,), IGNORE, dtype=torch.int64)
        for tensor in [*tensors, targets]:
            if len(tensor) != length:
                raise DataError(
                    f"inputs and targets differ in length: {length} samples and {len(tensor)}"
                )
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def fetch(self, index: Tensor, seed: int = 0) -> tuple[Any, Tensor]:
        """Return (inputs, targets) at ``index``; ``seed`` changes nothing."""
        if isinstance(self.inputs, Tensor):
            return self.inputs.index_select(0, index), self.targets.index_select(0, index)
        inputs = {name: value.index_select(0, index) for name, value in self.inputs.items()}
        return inputs, self.targets.index_select(0, index)

    def digest(self) -> str:
        """Return the sha256 of all inputs and targets."""
        return hash_tensors(self.inputs, self.targets)


class ConcatSamples:
    """Several sets one after the other (labelled samples and a transfer set, say).

    Args:
        parts: sets whose inputs have the same form.
        targets: all targets; None: those of the parts.
    """

    def __init__(self, parts: list[Samples], targets: Tensor | None = None) -> None:
        self.parts = parts
        self.starts = torch.tensor([len(part) for part in parts]).cumsum(0)
        self.num_workers = max(getattr(part, "num_workers", 0) for part in parts)
        self.targets = torch.cat([targets_of(p) for p in parts]) if targets is None else targets

    def __len__(self) -> int:
        return int(self.starts[-1])

    def fetch(self, index: Tensor, seed: int = 0) -> tuple[Any, Tensor]:
        """Return (inputs, targets) at ``index``, asking each part for its own."""
        which = torch.bucketize(index, self.starts, right=True)
        order, pieces = [], []
        for number, part in enumerate(self.parts):
            rows = (which == number).nonzero().squeeze(1)
            if len(rows):
                begin = int(self.starts[number]) - len(part)
                pieces.append(part.fetch(index[rows] - begin, seed)[0])
                order.append(rows)
        back = torch.cat(order).argsort()
        return _join(pieces, back), self.targets.index_select(0, index)

    def digest(self) -> str:
        """Return the sha256 over the parts' digests and the targets."""
        digests = "".join(digest_of(part) for part in self.parts)
        return hashlib.sha256((digests + hash_tensors(self.targets)).encode()).hexdigest()


def _join(pieces: list[Any], order: Tensor) -> Any:
    if isinstance(pieces[0], Mapping):
        return {key: _join([piece[key] for piece in pieces], order) for key in pieces[0]}
    try:
        return torch.cat(pieces)[order] if len(pieces) > 1 else pieces[0]
    except RuntimeError as error:
        shapes = [list(piece.shape[1:]) for piece in pieces]
        raise DataError(f"sets to be joined have samples of different shapes: {shapes}") from error


def in_chunks(samples: Samples, size: int = CHUNK) -> Iterator[tuple[Any, Tensor]]:
    """Yield (inputs, targets) of all samples in order, ``size`` at a time."""
    requests = ((index, 0) for index in torch.split(torch.arange(len(samples)), size))
    return prefetch(samples.fetch, requests, getattr(samples, "num_workers", 0))


def targets_of(samples: Samples) -> Tensor:
    """Return all targets as one tensor; with a pass over the set where it has none at hand."""
    targets = getattr(samples, "targets", None)
    if isinstance(targets, Tensor):
        return targets
    return torch.cat([targets for _, targets in in_chunks(samples)])


def digest_of(samples: Samples) -> str:
    """Return the sha256 of the content; with a pass over the set where it has no ``digest``."""
    own = getattr(samples, "digest", None)
    if own is not None:
        return str(own())
    parts = [hash_tensors(inputs, targets) for inputs, targets in in_chunks(samples)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def hash_tensors(*values: Any) -> str:
    """Return the sha256 over names, types, shapes and bytes of (mappings of) tensors."""
    digest = hashlib.sha256()
    for value in values:
        items = sorted(value.items()) if isinstance(value, Mapping) else [("", value)]
        for name, item in items:
            tensor = first_tensor(item).detach().cpu().contiguous()
            digest.update(f"{name}|{tensor.dtype}|{list(tensor.shape)}|".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
