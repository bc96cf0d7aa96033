"""Augmentation against naive loops, and the promise that any view can be replayed."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.data import Augment, Normalize, apply_geometric, renormalize
from limbeck.data.geometry import _gathered, _pad, _windows
from limbeck.errors import RecipeError, ShapeError

ALL = [
    {"crop": {"padding": 3}},
    "flip",
    {"rotate": 15},
    {"noise": 0.05},
    {"cutout": 4},
    {"normalize": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}},
]


def images(batch: int = 17, channels: int = 3, height: int = 13, width: int = 11) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, channels, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def naive_crop_flip(x: Tensor, parameters: Any) -> Tensor:
    mode = {"zero": "constant", "reflect": "reflect"}[parameters.mode]
    out = torch.empty_like(x)
    p, (height, width) = parameters.padding, x.shape[2:]
    for b in range(len(x)):
        for c in range(x.shape[1]):
            padded = np.pad(x[b, c].numpy(), p, mode=mode)  # type: ignore[call-overload]
            top, left = int(parameters.top[b]), int(parameters.left[b])
            for i in range(height):
                for j in range(width):
                    k = width - 1 - j if bool(parameters.flip[b]) else j
                    out[b, c, i, j] = int(padded[top + i, left + k])
    return out


@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_crop_and_flip_equal_a_naive_loop(mode: str) -> None:
    x = images()
    augment = Augment([{"crop": {"padding": 3, "mode": mode}}, "flip"])
    parameters = augment.geometric_parameters(torch.arange(17), seed=5, view=2)
    assert parameters.flip is not None
    assert 0 < int(parameters.flip.sum()) < 17
    expected = naive_crop_flip(x, parameters)
    assert torch.equal(apply_geometric(x, parameters), expected)
    shown = augment(x, torch.arange(17), seed=5, view=2)
    assert torch.allclose(shown, expected.float() / 255, rtol=1e-6, atol=0)


def test_both_forms_of_the_crop_are_the_same() -> None:
    x = images(40)
    augment = Augment([{"crop": 2}, "flip"])
    p = augment.geometric_parameters(torch.arange(40), seed=0, view=0)
    padded = _pad(x, 2, "zero")
    assert p.top is not None
    assert p.left is not None
    fast = _windows(padded, (13, 11), p.top, p.left, p.flip)
    assert torch.equal(fast, _gathered(padded, (13, 11), p.top, p.left, p.flip))
    graph = x.double().requires_grad_()
    assert torch.equal(apply_geometric(graph, p).detach(), fast.double())
    apply_geometric(graph, p).sum().backward()
    assert graph.grad is not None


@pytest.mark.parametrize("steps", [ALL[:1], ALL[1:2], ALL[2:3], ALL[3:4], ALL[4:5], ALL])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_the_same_sample_has_the_same_pixels_in_any_batch(steps: Any, kind: torch.dtype) -> None:
    x = images(33)
    x = x if kind == torch.uint8 else x.float() / 255
    augment = Augment(steps)
    index = torch.arange(100, 133)
    whole = augment(x, index, seed=9, view=4)
    order = torch.randperm(33)
    assert torch.equal(augment(x[order], index[order], seed=9, view=4), whole[order])
    for size in (1, 2, 7):
        parts = [
            augment(a, b, seed=9, view=4)
            for a, b in zip(x.split(size), index.split(size), strict=True)
        ]
        assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(augment(x, index, seed=9, view=5), whole)
    assert not torch.equal(augment(x, index, seed=8, view=4), whole)
    assert not torch.equal(augment(x, index + 1, seed=9, view=4), whole)


def test_inputs_are_not_written_to() -> None:
    for steps in (ALL, ALL[-1:], [], ["flip"]):
        for x in (images(), images().float() / 255, images().double()):
            kept = x.clone()
            shown = Augment(steps)(x, torch.arange(17))
            shown += 1
            assert torch.equal(x, kept)


def test_normalisation_is_that_of_the_textbook_and_keeps_float_types() -> None:
    x = images()
    augment = Augment(ALL[-1:])
    mean = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1).double()
    std = torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1).double()
    expected = (x.double() / 255 - mean) / std
    assert augment(x).dtype == torch.float32
    assert torch.allclose(augment(x).double(), expected, atol=1e-6)
    assert torch.allclose(augment(x.double() / 255), expected, atol=1e-6)
    assert augment(x.double()).dtype == torch.float64
    assert not augment.is_random


def test_padding_is_black_before_normalisation() -> None:
    x = torch.full((64, 1, 4, 4), 255, dtype=torch.uint8)
    augment = Augment([{"crop": 2}, {"normalize": {"mean": 0.5, "std": 0.25}}])
    values = {round(v, 4) for v in augment(x, torch.arange(64)).unique().tolist()}
    assert values == {-2.0, 2.0}


def test_maps_move_with_their_images() -> None:
    x = images(channels=1)
    augment = Augment(ALL[:2])
    index = torch.arange(17)
    p = augment.geometric_parameters(index, seed=3, view=1)
    maps = x[:, 0].float() / 255
    assert torch.allclose(apply_geometric(maps, p), augment(x, index, seed=3, view=1)[:, 0])
    half = apply_geometric(maps.to(torch.bfloat16), p)
    assert torch.equal(half, apply_geometric(maps, p).to(torch.bfloat16))


def test_crop_offsets_and_flips_are_uniform() -> None:
    p = Augment([{"crop": 4}, "flip"]).geometric_parameters(torch.arange(81_000), seed=0, view=0)
    assert p.top is not None
    assert p.left is not None
    assert p.flip is not None
    cells = torch.bincount(p.top * 9 + p.left, minlength=81).double()
    assert float(((cells - 1000) ** 2 / 1000).sum()) < 150  # 80 degrees of freedom
    assert abs(float(p.flip.double().mean()) - 0.5) < 0.01


def test_rotation_by_a_right_angle_moves_pixels_exactly() -> None:
    from limbeck.data import GeometricParameters

    x = torch.rand(2, 3, 8, 8)
    angle = torch.tensor([np.pi / 2, 0.0], dtype=torch.float32)
    turned = apply_geometric(x, GeometricParameters(angle=angle))
    assert torch.allclose(turned[0], torch.rot90(x[0], 1, (1, 2)), atol=1e-5)
    assert torch.allclose(turned[1], x[1], atol=1e-5)


def test_rotation_equals_torchs_own_grid() -> None:
    x = torch.rand(5, 2, 9, 9)
    augment = Augment([{"rotate": 30}])
    p = augment.geometric_parameters(torch.arange(5), seed=0, view=0)
    assert p.angle is not None
    assert float(p.angle.abs().max()) <= np.pi / 6
    rows = [[[a.cos(), -a.sin(), 0], [a.sin(), a.cos(), 0]] for a in p.angle]
    grid = F.affine_grid(torch.tensor(rows), [5, 2, 9, 9], align_corners=False)
    expected = F.grid_sample(x, grid, align_corners=False)
    assert torch.allclose(augment(x, torch.arange(5)), expected, atol=1e-5)


def test_cutout_is_a_square_of_the_mean() -> None:
    x = torch.full((200, 3, 12, 12), 255, dtype=torch.uint8)
    shown = Augment([{"cutout": 4}, *ALL[-1:]])(x, torch.arange(200))
    blank = shown == 0
    assert (blank.all(1) == blank.any(1)).all()
    sizes = blank[:, 0].flatten(1).sum(1)
    assert int(sizes.max()) == 16
    assert int(sizes.min()) >= 4  # a corner: its centre lies inside of the image
    for mask in blank[:, 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None])


def test_noise_is_standard_normal_and_independent() -> None:
    x = torch.zeros(200, 1, 20, 25)
    noise = Augment([{"noise": 1.0}])(x, torch.arange(200)).double().flatten()
    assert abs(float(noise.mean())) < 0.016  # 5 sd of 100,000
    assert abs(float(noise.std()) - 1) < 0.012
    assert abs(float((noise**4).mean()) - 3) < 0.1
    assert abs(float(torch.corrcoef(torch.stack([noise[:-1], noise[1:]]))[0, 1])) < 0.016
    assert float((noise.abs() > 1.959964).double().mean()) == pytest.approx(0.05, abs=0.004)


def test_what_has_no_pixels_passes_through() -> None:
    tokens = {"ids": torch.arange(4)}
    assert Augment()(tokens) is tokens
    codes = torch.arange(4)
    assert Augment()(codes) is codes
    with pytest.raises(ShapeError, match="expected uint8 or float"):
        Augment(["flip"])(tokens, torch.arange(4))


def test_the_spec_builds_the_same_pipeline() -> None:
    augment = Augment(ALL)
    assert Augment(augment.spec) == augment
    assert hash(Augment(augment.spec)) == hash(augment)
    assert Augment(["flip"]) != augment
    assert augment.normalization == Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (["flop"], "did you mean 'flip'"),
        (["flip", "flip"], "given twice"),
        ([{"crop": {"paddin": 4}}], "did you mean 'padding'"),
        ([{"crop": {"padding": 1.5}}], r"crop\.padding: expected a whole number"),
        ([{"crop": {"mode": "mirror"}}], "unknown crop mode"),
        ([{"rotate": -3}], "rotate: expected a number >= 0, got -3"),
        ([{"cutout": "big"}], "cutout"),
        ([{"normalize": {"mean": [0.1], "std": [0.1, 0.2]}}], "1 means and 2 stds"),
        ([{"normalize": {"mean": [0.1], "std": [0.0]}}], "must be above 0"),
        ([{"normalize": {"mean": [0.1]}}], r"normalize\.std"),
        ([{"crop": 4, "flip": None}], "expected a name"),
        ([3], "expected a name"),
        (7, "expected a list of steps, got 7"),
        ([{"flip": 0}], "flip: expected no value, got 0"),
        ([{"noise": float("inf")}], "noise: expected a number >= 0, got inf"),
        ([{"rotate": float("nan")}], "rotate: expected a number >= 0, got nan"),
        ([{"normalize": {"mean": float("nan"), "std": 1}}], r"normalize\.mean: expected a number"),
    ],
)
def test_misuse_is_one_clear_line(steps: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Augment(steps)


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ShapeError, match="3 channels for inputs of shape"):
        Augment(ALL[-1:])(images(channels=2))
    with pytest.raises(ShapeError, match="need the samples' index"):
        Augment(["flip"])(images())
    with pytest.raises(ShapeError, match="5 parameters for 17 images"):
        apply_geometric(images(), Augment(["flip"]).geometric_parameters(torch.arange(5), seed=0))
    with pytest.raises(ShapeError, match="cannot reflect 11 pixels"):
        Augment([{"crop": {"padding": 11, "mode": "reflect"}}])(images(), torch.arange(17))
    with pytest.raises(ShapeError, match="expected images"):
        Augment(["flip"])(torch.zeros(3, 4), torch.arange(3))


def test_renormalising_goes_through_the_pixels() -> None:
    ours = Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    theirs = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    pixels = torch.rand(4, 3, 5, 5, dtype=torch.float64)
    x = ours(pixels)
    assert torch.allclose(renormalize(x, ours, theirs), theirs(pixels), atol=1e-12)
    assert torch.allclose(renormalize(x, ours, None), pixels, atol=1e-12)
    assert torch.allclose(renormalize(pixels, None, theirs), theirs(pixels), atol=1e-12)
    grey = Normalize((0.5,), (0.5,))
    assert torch.allclose(renormalize(x, ours, grey), grey(pixels), atol=1e-12)
    assert renormalize(x, ours, ours) is x
    assert torch.equal(x, ours(pixels))
