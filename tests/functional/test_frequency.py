"""Frequency attention against the transform's definition, and its limits."""

import cmath

import pytest
import torch
from torch import Tensor

from limbeck import functional as lf


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def naive(feature: Tensor, filters: Tensor, low_cut: float) -> Tensor:
    """The transform as sums, frequencies counted from minus a half to a half."""
    batch, ins, height, width = feature.shape
    outs = filters.shape[1]
    out = torch.zeros(batch, outs, height, width, dtype=torch.float64)
    cut_y, cut_x = int(low_cut * (height // 2)), int(low_cut * (width // 2))
    for b in range(batch):
        for v in range(height):
            for u in range(width):
                # where the frequency lies once 0 is in the middle
                y, x = (v + height // 2) % height, (u + width // 2) % width
                inside_y = height // 2 - cut_y <= y < height // 2 + cut_y
                inside_x = width // 2 - cut_x <= x < width // 2 + cut_x
                if inside_y and inside_x:
                    continue
                at = [
                    sum(
                        float(feature[b, i, p, q])
                        * cmath.exp(-2j * cmath.pi * (v * p / height + u * q / width))
                        for p in range(height)
                        for q in range(width)
                    )
                    for i in range(ins)
                ]
                for o in range(outs):
                    mixed = sum(at[i] * complex(filters[i, o, v, u]) for i in range(ins))
                    for p in range(height):
                        for q in range(width):
                            turn = cmath.exp(2j * cmath.pi * (v * p / height + u * q / width))
                            out[b, o, p, q] += (mixed * turn).real / (height * width)
    return out


@pytest.mark.parametrize(("shape", "low_cut"), [((2, 2, 4, 5), 0.1), ((1, 2, 5, 4), 0.6)])
def test_against_sums(shape, low_cut):
    feature = draw(*shape)
    parts = draw(2, 3, *shape[2:], 2, seed=1)
    filters = torch.view_as_complex(parts)
    value = lf.frequency_attention(feature, filters, low_cut=low_cut)
    torch.testing.assert_close(value, naive(feature, filters, low_cut))
    assert value.shape == (shape[0], 3, *shape[2:])


def test_ones_give_the_map_back_and_zeros_nothing():
    feature = draw(2, 1, 6, 7)
    ones = torch.ones(1, 1, 6, 7, dtype=torch.complex128)
    torch.testing.assert_close(lf.frequency_attention(feature, ones), feature)
    assert not lf.frequency_attention(feature, 0 * ones).any()


def test_a_shift_is_a_phase():
    feature = draw(1, 1, 8, 8)
    turn = torch.exp(-2j * torch.pi * torch.arange(8, dtype=torch.float64) / 8)
    filters = turn.view(1, 1, 8, 1).expand(1, 1, 8, 8)
    value = lf.frequency_attention(feature, filters)
    torch.testing.assert_close(value, feature.roll(1, dims=2))


def test_low_frequencies_go_in_large_maps_alone():
    ones = {side: torch.ones(1, 1, side, side, dtype=torch.complex128) for side in (18, 20)}
    flat = torch.ones(1, 1, 20, 20, dtype=torch.float64)
    assert lf.frequency_attention(flat, ones[20]).abs().max() < 1e-12
    torch.testing.assert_close(
        lf.frequency_attention(flat[..., :18, :18], ones[18]), flat[..., :18, :18]
    )
    fast = (-1.0) ** torch.arange(20, dtype=torch.float64).expand(1, 1, 20, 20)
    torch.testing.assert_close(lf.frequency_attention(fast, ones[20]), fast)


def test_what_does_not_fit_is_refused():
    filters = torch.ones(2, 3, 4, 4, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"expected filters \[in_channels, out_channels, height"):
        lf.frequency_attention(draw(1, 2, 4, 5), filters)
    with pytest.raises(ValueError, match=r"low_cut is 1\.0; expected a number in \[0, 1\)"):
        lf.frequency_attention(draw(1, 2, 4, 4), filters, low_cut=1.0)
