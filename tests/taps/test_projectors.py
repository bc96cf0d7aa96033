"""Projectors: the right form for every pair of shapes, or one clear line."""

import pytest
import torch
from torch import nn

from limbeck.errors import ShapeError
from limbeck.taps import make_projector


def kinds(module):
    parts = module if isinstance(module, nn.Sequential) else [module]
    return [type(part).__name__ for part in parts]


@pytest.mark.parametrize(
    ("kind", "student", "teacher", "expected"),
    [
        ("auto", (4, 8), (4, 5), ["Linear"]),
        ("auto", (4, 9, 8), (4, 9, 5), ["Linear"]),
        ("auto", (4, 8, 7, 7), (4, 5, 7, 7), ["Conv2d"]),
        ("auto", (4, 8, 8, 8), (4, 5, 4, 4), ["Conv2d"]),
        ("auto", (4, 8, 4, 4), (4, 5, 8, 8), ["ConvTranspose2d"]),
        ("linear", (4, 8), (4, 5), ["Linear"]),
        ("conv1x1", (4, 8, 7, 7), (4, 5, 7, 7), ["Conv2d"]),
        ("conv3x3", (4, 8, 7, 5), (4, 5, 7, 5), ["Conv2d"]),
        ("regressor", (4, 8, 7, 7), (4, 5, 7, 7), ["Conv2d", "BatchNorm2d", "ReLU"]),
        ("regressor", (4, 8, 16, 8), (4, 5, 8, 4), ["Conv2d", "BatchNorm2d", "ReLU"]),
        ("regressor", (4, 8, 4, 7), (4, 5, 8, 14), ["ConvTranspose2d", "BatchNorm2d", "ReLU"]),
        ("regressor", (4, 8, 9, 7), (4, 5, 6, 7), ["Conv2d", "BatchNorm2d", "ReLU"]),
        ("identity", (4, 8, 7, 7), (4, 8, 7, 7), ["Identity"]),
    ],
)
def test_output_has_the_teachers_shape(kind, student, teacher, expected):
    projector = make_projector(kind, student, teacher)
    assert projector(torch.randn(*student)).shape == teacher
    assert kinds(projector) == expected


@pytest.mark.parametrize(
    ("student", "teacher", "kernel", "stride"),
    [
        ((8, 8), (4, 4), 3, 2),
        ((4, 4), (8, 8), 4, 2),
        ((7, 7), (7, 7), 1, 1),
        ((9, 9), (4, 4), 6, 1),
    ],
)
def test_regressor_kernels_are_the_literatures(student, teacher, kernel, stride):
    layer = make_projector("regressor", (2, 3, *student), (2, 5, *teacher))[0]
    assert layer.kernel_size == (kernel, kernel)
    assert layer.stride == (stride, stride)


def test_norm_and_activation_are_options():
    shapes = (4, 8, 7, 7), (4, 5, 7, 7)
    assert kinds(make_projector("regressor", *shapes, norm=False)) == ["Conv2d", "ReLU"]
    assert kinds(make_projector("regressor", *shapes, norm=False, activation=False)) == ["Conv2d"]
    assert kinds(make_projector("conv1x1", *shapes, norm=True)) == ["Conv2d", "BatchNorm2d"]
    assert kinds(make_projector("linear", (4, 8), (4, 5), norm=True)) == ["Linear", "BatchNorm1d"]
    tokens = make_projector("linear", (4, 2, 8), (4, 2, 5), norm=True, activation=True)
    assert kinds(tokens) == ["Linear", "LayerNorm", "ReLU"]


def test_gradients_reach_the_students_features_and_the_projector():
    projector = make_projector("regressor", (4, 8, 8, 8), (4, 5, 4, 4))
    features = torch.randn(4, 8, 8, 8, requires_grad=True)
    projector(features).square().sum().backward()
    assert features.grad.abs().sum() > 0
    assert projector[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("kind", "student", "teacher", "message"),
    [
        ("auto", (4, 8, 7, 7), (4, 5, 8, 8), "map is smaller, and not by exactly half"),
        ("regressor", (4, 8, 8, 4), (4, 5, 4, 8), "map is smaller"),
        ("auto", (4, 8, 7, 7), (4, 49, 8), "different numbers of dimensions"),
        ("auto", (4, 8), (4, 5, 1, 1), "different numbers of dimensions"),
        ("auto", (4, 64, 8), (4, 65, 8), "the numbers of tokens differ"),
        ("conv1x1", (4, 8, 8, 8), (4, 8, 4, 4), "needs maps of equal size: use 'regressor'"),
        ("conv3x3", (4, 8), (4, 8), "is for maps, these are vectors: use 'linear'"),
        ("regressor", (4, 2, 8), (4, 2, 8), "is for maps, these are tokens: use 'linear'"),
        ("linear", (4, 8, 8, 8), (4, 8, 8, 8), "'linear' is for vectors, these are maps"),
        ("identity", (4, 8), (4, 9), "'identity' needs equal shapes"),
        ("auto", (4,), (4,), "expected vectors, tokens or maps"),
        ("auto", (4, 2, 2, 2, 2), (4, 2, 2, 2, 2), "expected vectors, tokens or maps"),
    ],
)
def test_refusals_name_taps_and_shapes(kind, student, teacher, message):
    with pytest.raises(ShapeError, match=message) as caught:
        make_projector(kind, student, teacher, names=("layer2", "blocks.3"))
    text = str(caught.value)
    assert "student tap 'layer2'" in text
    assert "teacher tap 'blocks.3'" in text
    assert str(list(student)) in text
    assert str(list(teacher)) in text
    assert "\n" not in text


def test_unknown_kind():
    with pytest.raises(ShapeError, match="unknown projector 'conv1': did you mean 'conv1x1'"):
        make_projector("conv1", (1, 2), (1, 2))
