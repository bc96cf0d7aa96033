"""Layers aggregated by gates, against loops."""

import math

import pytest
import torch
from torch import Tensor

from limbeck import functional as lf


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


BEFORE, LAYER, GATE = (draw(2, 3, 4, seed=seed) for seed in range(3))


def test_a_gate_mixes_entry_by_entry():
    found = lf.highway(BEFORE, LAYER, GATE).flatten().tolist()
    rows = zip(*(x.flatten().tolist() for x in (BEFORE, LAYER, GATE)), strict=True)
    expected = [b + (a - b) / (1 + math.exp(-g)) for b, a, g in rows]
    assert found == pytest.approx(expected, rel=1e-12)


def test_an_open_gate_is_the_layer_and_a_shut_one_what_was_before():
    torch.testing.assert_close(lf.highway(BEFORE, LAYER, GATE + 1e3), LAYER)
    torch.testing.assert_close(lf.highway(BEFORE, LAYER, GATE - 1e3), BEFORE)


def test_the_distance_trains_both_sides():
    ours, theirs = BEFORE.clone().requires_grad_(), LAYER.clone().requires_grad_()
    value = lf.aggregate_distance(ours, theirs)
    gaps = [(a - b) ** 2 for a, b in zip(BEFORE.flatten(), LAYER.flatten(), strict=True)]
    assert value.item() == pytest.approx(float(sum(gaps)) / len(gaps), rel=1e-12)
    mine, other = torch.autograd.grad(value, [ours, theirs])
    torch.testing.assert_close(mine, -other)
    assert mine.any()


def test_padding_does_not_count():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    value = lf.aggregate_distance(BEFORE, LAYER, mask=mask)
    rows = [(BEFORE - LAYER)[0, :2], (BEFORE - LAYER)[1, :1]]
    torch.testing.assert_close(value, torch.stack([row.square().mean() for row in rows]).mean())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="layers: student has shape"):
        lf.highway(BEFORE, LAYER[:1], GATE)
    with pytest.raises(ValueError, match="gate: student has shape"):
        lf.highway(BEFORE, LAYER, GATE[:1])
    with pytest.raises(ValueError, match="features: student has shape"):
        lf.aggregate_distance(BEFORE, LAYER[:, :2])
