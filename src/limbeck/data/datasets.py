"""A user's own data as Samples: torch data sets, pairs of tensors or arrays."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torch.utils.data import default_collate as torch_collate

from limbeck.data.batch import IGNORE
from limbeck.data.prefetch import prefetch
from limbeck.data.samples import CHUNK, Samples, TensorSamples
from limbeck.data.seeds import mix, seed_generators
from limbeck.errors import DataError

LABEL_KEYS = ("labels", "label", "targets", "target", "y")


class DatasetSamples:
    """Samples of any map-style torch data set.

    An item may be ``(x, y)``, a mapping with a label under one of ``LABEL_KEYS`` (the rest is the
    input mapping), or ``x`` alone (no label). Random transforms in the set are seeded for each
    sample from (seed, index), so that every view can be replayed; the caller's generators are
    left as they were.

    Args:
        dataset: has ``__len__`` and ``__getitem__(int)``.
        collate: joins a list of items into one batch of a form above; None: stacks tensors,
            arrays, numbers and PIL images (as uint8 ``[channels, height, width]``).
        num_workers: processes that fetch ahead in training (0: none).
        blank: the target of a sample without a label; None: ``IGNORE``.

    Raises:
        DataError: an item has another form, or its inputs are not finite (on fetching).
    """

    def __init__(
        self,
        dataset: Any,
        collate: Callable[[list[Any]], Any] | None = None,
        num_workers: int = 0,
        blank: Tensor | None = None,
    ) -> None:
        self.dataset = dataset
        self.collate = collate
        self.num_workers = num_workers
        self.blank = torch.tensor(IGNORE) if blank is None else blank

    def __len__(self) -> int:
        return len(self.dataset)

    def fetch(self, index: Tensor, seed: int = 0) -> tuple[Any, Tensor]:
        """Return (inputs, targets) of the items at ``index``, random transforms seeded."""
        items = []
        with _generators_kept():
            for position in index.tolist():
                seed_generators(mix(seed, position), devices=False)
                items.append(self.dataset[position])
        if self.collate is not None:
            inputs, targets = split_item(self.collate(items))
            targets = self._blanks(len(index)) if targets is None else torch.as_tensor(targets)
        else:
            pairs = [split_item(item) for item in items]
            inputs = _joined([_plain(x) for x, _ in pairs], "inputs")
            targets = _joined([self.blank if y is None else _target(y) for _, y in pairs], "labels")
        check_finite(inputs, index)
        return inputs, targets

    def _blanks(self, count: int) -> Tensor:
        return self.blank.expand(count, *self.blank.shape).clone()

    @cached_property
    def targets(self) -> Tensor:
        """All targets: the set's own ``targets`` where that agrees with its items, else a pass."""
        listed = self._listed_targets()
        return self._passed() if listed is None else listed

    def _listed_targets(self) -> Tensor | None:
        listed = getattr(self.dataset, "targets", None)
        if listed is None or len(listed) != len(self) or len(self) == 0:
            return None
        try:
            table = torch.as_tensor(np.asarray(listed))
        except (TypeError, ValueError, RuntimeError):
            return None
        probe = torch.linspace(0, len(self) - 1, min(len(self), 16)).long()
        _, seen = self.fetch(probe)
        return table if torch.equal(table[probe].to(seen.dtype), seen) else None

    def _passed(self) -> Tensor:
        requests = ((index, 0) for index in torch.split(torch.arange(len(self)), CHUNK))
        return torch.cat(list(prefetch(self._only_targets, requests, self.num_workers)))

    def _only_targets(self, index: Tensor, seed: int) -> Tensor:
        return self.fetch(index, seed)[1]


def split_item(item: Any) -> tuple[Any, Any]:
    """Split an item (or a batch) into (inputs, target or None).

    Raises:
        DataError: a tuple of another length than 1 or 2.
    """
    if isinstance(item, Mapping):
        key = next((key for key in LABEL_KEYS if key in item), None)
        rest = {name: value for name, value in item.items() if name != key}
        return rest, None if key is None else item[key]
    if isinstance(item, tuple | list):
        if len(item) == 2:
            return item[0], item[1]
        if len(item) == 1:
            return item[0], None
        raise DataError(
            f"an item of the data set is a {type(item).__name__} of {len(item)}; expected (x, y), "
            "x alone or a mapping with 'labels': pass collate= to say how it is read"
        )
    return item, None


def as_samples(
    data: Any, *, collate: Callable[[list[Any]], Any] | None = None, num_workers: int = 0
) -> Samples:
    """Read what a user calls data: Samples, a data set, a pair (x, y) of tensors or arrays, x.

    Tensors, arrays, ``TensorDataset`` and its subsets become tensors in memory (the fast path);
    float64 arrays become float32.

    Raises:
        DataError: a DataLoader (its samples have no index), a set without length, or an object
            of another kind.
    """
    if isinstance(data, DataLoader):
        raise DataError("a DataLoader hides which sample is which: pass data=loader.dataset")
    if isinstance(data, Samples):
        return data
    if collate is None:
        fast = _as_tensors(data)
        if fast is not None:
            return fast
    if isinstance(data, IterableDataset | tuple) or not hasattr(data, "__getitem__"):
        raise DataError(
            f"cannot read data from {type(data).__name__}: expected a map-style data set (with "
            "__len__ and __getitem__), or a pair (x, y) of tensors or arrays"
        )
    if not isinstance(data, Sized):
        raise DataError(f"the data set {type(data).__name__} has no length: give it __len__")
    return DatasetSamples(data, collate, num_workers)


def _as_tensors(data: Any) -> TensorSamples | None:
    """Return tensors in memory where the data are such already, else None."""
    if isinstance(data, TensorDataset):
        return _as_tensors(tuple(data.tensors))
    if isinstance(data, Subset):
        whole = _as_tensors(data.dataset) if isinstance(data.dataset, Dataset) else None
        if whole is None:
            return None
        return TensorSamples(*whole.fetch(torch.as_tensor(data.indices, dtype=torch.int64)))
    if isinstance(data, Tensor | np.ndarray):
        return TensorSamples(_tensor(data))
    if isinstance(data, tuple) and 1 <= len(data) <= 2:
        inputs, targets = data[0], data[1] if len(data) == 2 else None
        if isinstance(inputs, Mapping):
            inputs = {key: _tensor(value) for key, value in inputs.items()}
        elif isinstance(inputs, Tensor | np.ndarray):
            inputs = _tensor(inputs)
        else:
            return None
        return TensorSamples(inputs, None if targets is None else _tensor(targets))
    return None


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise DataError(f"cannot make a tensor of an array of type {array.dtype}: expected numbers")
    return torch.from_numpy(np.require(_narrow(array), requirements=["C", "W"]))


def _narrow(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Give float64 (NumPy's habit, not a choice) and unsigned kinds a type that torch computes."""
    if array.dtype == np.float64:
        return array.astype(np.float32)
    return array.astype(np.int64) if array.dtype.kind == "u" and array.dtype.itemsize > 1 else array


def _plain(value: Any) -> Any:
    """Make arrays and PIL images tensors; leave the rest to torch's collate."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _tensor(value)
    if hasattr(value, "getbands") and hasattr(value, "convert"):  # a PIL image
        pixels = torch.from_numpy(np.array(value))
        return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()
    return value


def _joined(items: list[Any], what: str) -> Any:
    try:
        return torch_collate(items)
    except (RuntimeError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{what} of different items cannot be joined: {reason}; pass collate= to say how"
        ) from error


def _target(value: Any) -> Tensor:
    if isinstance(value, float):
        return torch.tensor(value, dtype=torch.float32)
    return value if isinstance(value, Tensor) else _tensor(value)


def check_finite(inputs: Any, index: Tensor) -> None:
    """Raise DataError with sample and value where float inputs are NaN or infinite."""
    for value in inputs.values() if isinstance(inputs, Mapping) else [inputs]:
        if isinstance(value, Tensor) and value.is_floating_point():
            bad = ~torch.isfinite(value.reshape(len(value), -1))
            if bool(bad.any()):
                row = int(bad.any(dim=1).nonzero()[0])
                number = float(value.reshape(len(value), -1)[row][bad[row]][0])
                raise DataError(f"sample {int(index[row])}: the input contains {number}")


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Leave the process's generators as they were."""
    kept = torch.random.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        torch.random.set_rng_state(kept[0])
        random.setstate(kept[1])
        np.random.set_state(cast("Any", kept[2]))  # noqa: NPY002
