"""Batches: every sample once, ragged means exact, resumable anywhere."""

from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset

from limbeck.data import (
    IGNORE,
    Augment,
    Batch,
    TensorSamples,
    View,
    as_samples,
    batches,
    eval_batches,
    steps_per_epoch,
)
from limbeck.data.batch import stretched
from limbeck.errors import DataError, RecipeError


def view_of(size: int, unlabelled: int = 0) -> View:
    targets = torch.arange(size) % 4
    targets[size - unlabelled :] = IGNORE
    return View.of(TensorSamples(torch.arange(float(size)).double()[:, None], targets))


def epoch(view: View, **options: Any) -> list[list[Batch]]:
    settled = {"batch_size": 8, "seed": 0, "epoch": 0, "augment": Augment()} | options
    return list(batches(view, **settled))


def index(batch: Batch) -> list[int]:
    assert batch.index is not None
    positions: list[int] = batch.index.tolist()
    return positions


def flat(steps: list[list[Batch]]) -> list[list[list[int]]]:
    return [[index(batch) for batch in step] for step in steps]


@settings(max_examples=80, deadline=None)
@given(
    size=st.integers(2, 70),
    batch_size=st.integers(1, 20),
    world_size=st.integers(1, 3),
    accumulate=st.integers(1, 3),
    hidden=st.integers(0, 60),
)
def test_ranks_and_micro_batches_add_up_to_the_step(
    size: int, batch_size: int, world_size: int, accumulate: int, hidden: int
) -> None:
    """The weighted sums of slices are the means over the step, in float64, however ragged."""
    view = view_of(size, min(hidden, size))
    options = {"batch_size": batch_size, "accumulate": accumulate, "world_size": world_size}
    try:
        ranks = [epoch(view, rank=rank, **options) for rank in range(world_size)]
    except (RecipeError, DataError):
        assert batch_size < world_size * accumulate or size < 2 * world_size
        return
    alone = epoch(view, batch_size=batch_size)
    assert {len(steps) for steps in ranks} == {steps_per_epoch(view, **options)}  # type: ignore[arg-type]
    left_out = size - sum(len(batch) for steps in ranks for step in steps for batch in step)
    assert left_out < (2 * world_size if batch_size > world_size else max(world_size, 2))
    if world_size == 1:
        assert len(ranks[0]) == len(alone)
    values = torch.rand(size, dtype=torch.float64)
    for number in range(len(ranks[0])):
        micro = [batch for steps in ranks for batch in steps[number]]
        assert len({len(steps[number]) for steps in ranks}) == 1
        order = [position for batch in micro for position in index(batch)]
        assert order == index(alone[number][0])
        assert max(len(b) for b in micro) - min(len(b) for b in micro) <= 1
        means = sum(float(values[b.index].mean()) * b.share for b in micro)
        assert means == pytest.approx(float(values[order].mean()), rel=1e-13)
        kept = [p for p in order if view.targets[p] != IGNORE]
        task = sum(
            float(values[b.index][b.labelled].mean()) * b.label_share
            for b in micro
            if b.label_share
        )
        expected = float(values[kept].mean()) if kept else 0.0
        assert task == pytest.approx(expected, rel=1e-13)
        total = sum(b.label_share for b in micro)
        assert total == pytest.approx(1.0 if kept else 0.0)


def test_an_epoch_is_every_sample_once_in_an_order_of_its_own() -> None:
    view = view_of(50)
    orders = [
        [p for step in flat(epoch(view, epoch=e, seed=s)) for batch in step for p in batch]
        for e, s in ((0, 0), (1, 0), (0, 1))
    ]
    for order in orders:
        assert sorted(order) == list(range(50))
    assert orders[0] != orders[1] != orders[2] != orders[0]
    plain = [p for step in flat(epoch(view, shuffle=False)) for batch in step for p in batch]
    assert plain == list(range(50))


def test_starting_late_is_skipping() -> None:
    view = View.of(TensorSamples(torch.randint(0, 256, (45, 1, 6, 6), dtype=torch.uint8)))
    options: dict[str, Any] = {
        "augment": Augment([{"crop": 2}, "flip", {"noise": 0.1}]),
        "epoch": 3,
        "accumulate": 2,
    }
    whole = epoch(view, **options)
    assert len(whole) == 6
    for start in range(len(whole) + 1):
        rest = epoch(view, start_step=start, **options)
        assert len(rest) == len(whole) - start
        for a, b in zip(rest, whole[start:], strict=True):
            assert flat([a]) == flat([b])
            for x, y in zip(a, b, strict=True):
                assert torch.equal(x.inputs, y.inputs)
                assert (x.share, x.label_share) == (y.share, y.label_share)


@pytest.mark.parametrize(
    ("size", "options", "sizes"),
    [
        (17, {}, [[8], [8]]),  # one sample left: batch normalisation cannot train on it
        (18, {}, [[8], [8], [2]]),
        (18, {"drop_last": True}, [[8], [8]]),
        (21, {"accumulate": 4}, [[2, 2, 2, 2], [2, 2, 2, 2], [2, 3]]),
        (19, {"accumulate": 2}, [[4, 4], [4, 4], [3]]),
        (19, {"accumulate": 8}, [[1] * 8, [1] * 8, [1] * 3]),  # slices of one were asked for
        (19, {"world_size": 2}, [[4], [4]]),  # 3 samples: one rank would have a single one
        (20, {"world_size": 2}, [[4], [4], [2]]),
        (3, {"batch_size": 1}, [[1], [1], [1]]),
        (5, {"batch_size": 100}, [[5]]),
    ],
)
def test_the_tail(size: int, options: dict[str, Any], sizes: list[list[int]]) -> None:
    steps = epoch(view_of(size), **options)
    assert [[len(batch) for batch in step] for step in steps] == sizes
    counted = {k: v for k, v in options.items() if k != "batch_size"}
    assert steps_per_epoch(size, options.get("batch_size", 8), **counted) == len(sizes)


def test_views_cycle() -> None:
    view = View.of(TensorSamples(torch.randint(0, 256, (8, 1, 6, 6), dtype=torch.uint8)))

    def pixels(number: int, views: int | None) -> Tensor:
        augment = Augment([{"crop": 3}])
        step = epoch(view, augment=augment, epoch=number, views=views, shuffle=False)
        assert isinstance(step[0][0].inputs, Tensor)
        return step[0][0].inputs

    assert torch.equal(pixels(0, 3), pixels(3, 3))
    assert torch.equal(pixels(4, 3), pixels(1, None))
    assert not torch.equal(pixels(0, 3), pixels(1, 3))
    assert not torch.equal(pixels(0, None), pixels(3, None))


def test_a_selected_and_changed_view_keeps_its_index_and_marks() -> None:
    view = view_of(20).with_overlay(torch.tensor([3]), torch.tensor([[99.0]]).double())
    view = view.select(torch.tensor([3, 5, 7, 9]))
    (step,) = epoch(view, shuffle=False)
    batch = step[0]
    assert index(batch) == [3, 5, 7, 9]
    assert batch.changed is not None
    assert batch.changed.tolist() == [True, False, False, False]
    assert batch.inputs[:, 0].tolist() == [99.0, 5.0, 7.0, 9.0]


class Items(Dataset[Any]):
    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> Any:
        return torch.rand(2) + index, index % 3


def test_workers_change_nothing() -> None:
    here = View.of(as_samples(Items()))
    there = View.of(as_samples(Items(), num_workers=2))
    options: dict[str, Any] = {"epoch": 1, "seed": 4, "accumulate": 2, "start_step": 1}
    a, b = epoch(here, **options), epoch(there, **options)
    assert flat(a) == flat(b)
    assert len(a) == 2
    for x, y in zip(chain(*a), chain(*b), strict=True):
        assert torch.equal(x.inputs, y.inputs)
        assert x.label_share == y.label_share
    other = epoch(here, **{**options, "epoch": 2})
    assert not torch.equal(other[0][0].inputs % 1, a[0][0].inputs % 1)


def test_evaluation_is_in_order_and_whole() -> None:
    view = view_of(19).select(torch.tensor([18, *range(18)]))
    found = list(eval_batches(view, 8, Augment([{"normalize": {"mean": 1, "std": 2}}])))
    assert [len(batch) for batch in found] == [8, 8, 3]
    assert [p for batch in found for p in index(batch)] == [18, *range(18)]
    assert torch.cat([b.inputs for b in found])[0, 0] == (18 - 1) / 2


def test_misuse_is_one_clear_line() -> None:
    with pytest.raises(RecipeError, match="batch_size=3 cannot be cut into 2 ranks x 2"):
        epoch(view_of(20), batch_size=3, world_size=2, accumulate=2)
    with pytest.raises(DataError, match="1 train samples are too few: a step needs 2"):
        epoch(view_of(1))
    with pytest.raises(DataError, match="5 train samples are too few: a step needs 8"):
        steps_per_epoch(5, 8, drop_last=True)


def test_batches_say_how_they_were_drawn_and_forget_it_when_replaced() -> None:
    view = View.of(TensorSamples(torch.rand(20, 3), torch.arange(20)))
    augment = Augment([{"noise": 0.1}])
    options = {"batch_size": 8, "seed": 3, "augment": augment, "views": 2}
    found = [batch for step in batches(view, epoch=5, **options) for batch in step]
    draw = found[0].draw
    assert draw is not None
    assert all(batch.draw is draw for batch in found)
    assert (draw.samples, draw.augment, draw.seed, draw.view) == (view.samples, augment, 3, 1)
    batch = found[0]
    raw = view.at(batch.index)  # what the draw says is enough to make the inputs again
    again = draw.augment(raw.inputs, batch.index, seed=draw.seed, view=draw.view)
    assert torch.equal(again, batch.inputs)
    assert batch.to("cpu").draw is draw
    assert batch.replace(targets=None).draw is draw
    for change in ({"inputs": batch.inputs}, {"teacher_inputs": raw}, {"index": batch.index}):
        assert batch.replace(**change).draw is None
    assert batch.replace(inputs=batch.inputs, draw=draw).draw is draw
    assert next(eval_batches(view, 8, augment)).draw is None


def test_a_stretched_batch_repeats_its_last_sample() -> None:
    images = torch.rand(3, 2, 4, 4).to(memory_format=torch.channels_last)
    batch = Batch({"x": images, "n": [torch.arange(3)]}, torch.arange(3), torch.arange(3))
    longer = stretched(batch, 5)
    assert len(longer) == 5
    assert torch.equal(longer.inputs["x"][2:], images[2:].expand(3, -1, -1, -1))
    assert longer.inputs["x"].is_contiguous(memory_format=torch.channels_last)
    assert longer.inputs["n"][0].tolist() == longer.targets.tolist() == [0, 1, 2, 2, 2]
