"""Batches on their way to another device; one without numbers stands for a GPU."""

import pytest
import torch

from limbeck.data.batch import Batch, move, stretched, take_rows


def batch() -> Batch:
    return Batch(torch.rand(4, 3), torch.tensor([0, 1, 2, 0]), torch.tensor([7, 3, 9, 1]))


def test_positions_stay_on_the_host_when_a_batch_moves():
    moved = batch().to("meta")
    assert moved.index.device.type == "meta"
    assert moved.positions.tolist() == [7, 3, 9, 1]
    assert moved.to("meta").positions.tolist() == [7, 3, 9, 1]


def test_positions_follow_what_is_done_to_the_batch():
    moved = batch().to("meta")
    changed = moved.replace(index=torch.tensor([5, 6, 7, 8]))
    assert changed.positions.tolist() == [5, 6, 7, 8]
    assert moved.replace(inputs=torch.rand(4, 3)).positions.tolist() == [7, 3, 9, 1]
    kept = batch()
    assert take_rows(kept, torch.tensor([2, 0])).positions.tolist() == [9, 7]
    assert stretched(kept, 6).positions.tolist() == [7, 3, 9, 1, 1, 1]


def test_rows_are_taken_of_the_host_copy_too():
    moved = batch().to("meta")
    assert take_rows(moved, torch.tensor([2, 0])).index_on_host.tolist() == [9, 7]
    assert stretched(moved, 5).index_on_host.tolist() == [7, 3, 9, 1, 1]


def test_an_index_that_is_elsewhere_already_is_read_back_by_those_who_ask_alone():
    moved = Batch(torch.rand(2, 3), index=torch.tensor([1, 2]).to("meta")).to("meta")
    assert moved.index_on_host is None


def test_a_batch_without_an_index_says_so():
    with pytest.raises(ValueError, match="the batch has no index"):
        _ = Batch(torch.rand(2, 3)).to("meta").positions


def test_what_is_on_the_cpu_stays_the_very_tensor():
    inputs = torch.rand(200, 200)
    assert move({"a": [inputs]}, "cpu")["a"][0] is inputs
