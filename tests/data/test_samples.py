"""Samples from tensors, data sets, arrays; targets and digests."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from limbeck.data import ConcatSamples, DatasetSamples, TensorSamples, as_samples, targets_of
from limbeck.data.batch import IGNORE
from limbeck.data.prefetch import prefetch
from limbeck.data.samples import digest_of
from limbeck.errors import DataError


class Items(Dataset[Any]):
    """Any list as a data set, counting how often it is read."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.reads = items, 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return self.items[index]


class Noisy(Dataset[Any]):
    """A user's set with random transforms of three kinds."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> Any:
        import random

        x = torch.tensor([float(index), float(torch.rand(())), random.random()])
        return torch.cat([x, torch.tensor([float(np.random.random())])]), index % 3  # noqa: NPY002


def test_tensors_are_fetched_by_index_and_keep_their_type() -> None:
    x = torch.arange(24, dtype=torch.uint8).view(6, 1, 2, 2)
    y = torch.arange(6)
    index = torch.tensor([5, 0, 0])
    inputs, targets = TensorSamples(x, y).fetch(index)
    assert inputs.dtype == torch.uint8
    assert torch.equal(inputs, x[index])
    assert targets.tolist() == [5, 0, 0]


def test_inputs_by_name() -> None:
    samples = TensorSamples({"a": torch.arange(4), "b": torch.eye(4)}, torch.arange(4))
    inputs, _ = samples.fetch(torch.tensor([2, 1]))
    assert inputs["a"].tolist() == [2, 1]
    assert torch.equal(inputs["b"], torch.eye(4)[[2, 1]])


def test_no_targets_means_no_labels() -> None:
    assert (targets_of(TensorSamples(torch.zeros(3, 2))) == IGNORE).all()
    assert (targets_of(as_samples(torch.zeros(3, 2))) == IGNORE).all()


@pytest.mark.parametrize(
    "data",
    [
        (torch.eye(4), torch.arange(4)),
        TensorDataset(torch.eye(4), torch.arange(4)),
        (np.eye(4), np.arange(4)),
        Subset(TensorDataset(torch.eye(6)[:, :4], torch.arange(6)), [0, 1, 2, 3]),
    ],
    ids=["tensors", "TensorDataset", "arrays", "Subset"],
)
def test_what_is_in_memory_becomes_tensors(data: Any) -> None:
    samples = as_samples(data)
    assert isinstance(samples, TensorSamples)
    inputs, targets = samples.fetch(torch.tensor([3, 1]))
    assert inputs.dtype == torch.float32
    assert torch.equal(inputs, torch.eye(4)[[3, 1]])
    assert targets.tolist() == [3, 1]


def test_items_of_all_forms() -> None:
    pairs = as_samples(Items([(torch.ones(2) * k, k) for k in range(4)]))
    assert pairs.fetch(torch.tensor([3]))[1].tolist() == [3]
    named = as_samples(Items([{"ids": torch.tensor([k, k]), "labels": k} for k in range(4)]))
    inputs, targets = named.fetch(torch.tensor([1, 2]))
    assert set(inputs) == {"ids"}
    assert targets.tolist() == [1, 2]
    alone = as_samples(Items([torch.ones(2) * k for k in range(4)]))
    assert alone.fetch(torch.tensor([1]))[1].tolist() == [IGNORE]
    mixed = as_samples(Items([{"x": torch.ones(2), "y": 1}, {"x": torch.ones(2), "y": None}]))
    assert targets_of(mixed).tolist() == [1, IGNORE]
    reals = DatasetSamples(
        Items([(np.ones(2), 0.5), (np.ones(2), None)]), blank=torch.tensor(torch.nan)
    )
    assert torch.equal(torch.isnan(targets_of(reals)), torch.tensor([False, True]))


def test_pil_images_become_uint8_channels_first() -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    samples = as_samples(Items([(image.fromarray(pixels), 0), (image.fromarray(pixels), 1)]))
    inputs, _ = samples.fetch(torch.tensor([0]))
    assert inputs.dtype == torch.uint8
    assert torch.equal(inputs[0], torch.from_numpy(pixels).permute(2, 0, 1))


def test_a_users_collate_is_used() -> None:
    def collate(items: list[Any]) -> Any:
        return {"x": torch.tensor([float(len(word)) for word, _ in items])}, [k for _, k in items]

    samples = as_samples(Items([("one", 0), ("three", 1)]), collate=collate)
    inputs, targets = samples.fetch(torch.tensor([1, 0]))
    assert inputs["x"].tolist() == [5.0, 3.0]
    assert targets.tolist() == [1, 0]


def test_random_transforms_are_replayed_and_leave_the_generators_alone() -> None:
    samples = as_samples(Noisy())
    before = torch.random.get_rng_state()
    alone = samples.fetch(torch.tensor([4]), 7)[0]
    together = samples.fetch(torch.arange(9), 7)[0]
    assert torch.equal(alone[0], together[4])
    assert torch.equal(torch.random.get_rng_state(), before)
    other = samples.fetch(torch.tensor([4]), 8)[0]
    assert (other[0, 1:] != alone[0, 1:]).all()
    assert (together[3, 1:] != together[4, 1:]).all()


def test_targets_come_from_the_list_only_where_it_is_true() -> None:
    honest = Items([(torch.zeros(1), k % 5) for k in range(100)])
    honest.targets = [k % 5 for k in range(100)]
    samples = as_samples(honest)
    assert targets_of(samples).tolist() == honest.targets
    assert honest.reads == 16
    transformed = Items([(torch.zeros(1), 4 - k % 5) for k in range(100)])
    transformed.targets = [k % 5 for k in range(100)]  # before a target transform
    assert targets_of(as_samples(transformed)).tolist() == [4 - k % 5 for k in range(100)]


def test_joined_sets() -> None:
    first = TensorSamples(torch.arange(3.0)[:, None], torch.arange(3))
    second = as_samples(Items([torch.tensor([10.0 + k]) for k in range(4)]))
    both = ConcatSamples([first, second])
    assert len(both) == 7
    inputs, targets = both.fetch(torch.tensor([6, 0, 3, 2]))
    assert inputs[:, 0].tolist() == [13.0, 0.0, 10.0, 2.0]
    assert targets.tolist() == [IGNORE, 0, IGNORE, 2]
    with pytest.raises(DataError, match="different shapes"):
        ConcatSamples([first, TensorSamples(torch.zeros(2, 5))]).fetch(torch.tensor([0, 4]))


def test_the_digest_follows_content() -> None:
    x, y = torch.arange(12.0).view(6, 2), torch.arange(6)
    digest = digest_of(TensorSamples(x, y))
    assert digest == digest_of(TensorSamples(x.clone(), y.clone()))
    changed = x.clone()
    changed[5, 1] += 1e-6 * 11
    assert digest != digest_of(TensorSamples(changed, y))
    assert digest != digest_of(TensorSamples(x, y.flip(0)))
    assert digest != digest_of(TensorSamples(x.view(6, 2, 1), y))
    items = [(row, int(k)) for row, k in zip(x, y, strict=True)]
    assert digest_of(as_samples(Items(items))) == digest_of(as_samples(Items(items)))


def test_prefetching_in_processes_gives_the_same_in_order() -> None:
    samples = as_samples(Noisy())
    requests = [(torch.tensor([k, 8 - k]), k) for k in range(6)]
    here = list(prefetch(samples.fetch, requests, 0))
    there = list(prefetch(samples.fetch, requests, 2))
    assert len(there) == 6
    for (x, y), (a, b) in zip(here, there, strict=True):
        assert torch.equal(x, a)
        assert torch.equal(y, b)


def test_an_error_in_a_process_comes_home_as_one_line() -> None:
    samples = as_samples(Items([(torch.tensor([1.0]), 0), (torch.tensor([torch.inf]), 0)]))
    with pytest.raises(DataError) as caught:
        list(prefetch(samples.fetch, [(torch.tensor([1]), 0)], 1))
    assert str(caught.value) == "sample 1: the input contains inf"


def test_a_loader_is_refused_with_the_line_to_write() -> None:
    loader = DataLoader(TensorDataset(torch.eye(2), torch.arange(2)))
    with pytest.raises(DataError, match=r"pass data=loader\.dataset"):
        as_samples(loader)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize("data", [Stream(), 3, None, ([1, 2], [3, 4])])
def test_what_has_no_samples_is_refused(data: Any) -> None:
    with pytest.raises(DataError, match="cannot read data from"):
        as_samples(data)


def test_bad_forms_are_named() -> None:
    with pytest.raises(DataError, match="4 samples and 3"):
        TensorSamples(torch.eye(4), torch.arange(3))
    with pytest.raises(DataError, match="tuple of 3"):
        as_samples(Items([(1, 2, 3)])).fetch(torch.tensor([0]))
    with pytest.raises(DataError, match="expected numbers"):
        as_samples((np.array(["a", "b"]), np.arange(2)))
    with pytest.raises(DataError, match=r"sample 1: the input contains nan"):
        as_samples(Items([(torch.zeros(1), 0), (torch.tensor([torch.nan]), 0)])).fetch(
            torch.arange(2)
        )
