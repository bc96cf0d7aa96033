"""CIFAR ResNets: published sizes, and the paper's formula written out."""

import pytest
import torch
from torch.nn import functional as F

from limbeck.models import build_model, count_parameters

PUBLISHED = [
    ("resnet20", 10, 269_722),  # pretrained weights' own counts, see the data folder's README
    ("resnet32", 10, 464_154),
    ("resnet44", 10, 658_586),
    ("resnet56", 10, 853_018),
    ("resnet8x4", 100, 1_233_540),  # CIFAR-100 tables of the distillation literature
    ("resnet32x4", 100, 7_433_860),
]


@pytest.mark.parametrize(("name", "classes", "parameters"), PUBLISHED)
def test_parameter_counts_are_the_published_ones(name, classes, parameters):
    model = build_model(name, num_classes=classes, input_shape=(3, 32, 32))
    assert count_parameters(model) == parameters


@pytest.mark.parametrize(("name", "classes", "parameters"), PUBLISHED)
def test_published_counts_follow_from_arithmetic(name, classes, parameters):
    wide = name.endswith("x4")
    depth = int(name.removeprefix("resnet").removesuffix("x4"))
    stem, *stages = (32, 64, 128, 256) if wide else (16, 16, 32, 64)
    total = 3 * stem * 9 + 2 * stem
    inside = stem
    for channels in stages:
        for _ in range((depth - 2) // 6):
            total += 9 * inside * channels + 9 * channels * channels + 4 * channels
            if wide and inside != channels:
                total += inside * channels + 2 * channels
            inside = channels
    assert total + inside * classes + classes == parameters


def _norm(x, state, name):
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    scale = state[f"{name}.weight"] / (var + 1e-5).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + state[f"{name}.bias"][:, None, None]


def _written_out(x, state, blocks):
    """Section 4.2 of the paper, step by step, from a state dict alone."""
    x = _norm(F.conv2d(x, state["conv1.weight"], padding=1), state, "bn1").clamp(min=0)
    for stage in (1, 2, 3):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = _norm(y, state, f"{name}.bn1").clamp(min=0)
            y = _norm(F.conv2d(y, state[f"{name}.conv2.weight"], padding=1), state, f"{name}.bn2")
            if f"{name}.shortcut.0.weight" in state:
                x = F.conv2d(x, state[f"{name}.shortcut.0.weight"], stride=stride)
                x = _norm(x, state, f"{name}.shortcut.1")
            elif stride == 2:
                padded = torch.zeros_like(y)
                quarter = y.shape[1] // 4
                padded[:, quarter : quarter + x.shape[1]] = x[:, :, ::2, ::2]
                x = padded
            x = (x + y).clamp(min=0)
    return x.mean(dim=(2, 3)) @ state["linear.weight"].T + state["linear.bias"]


@pytest.mark.parametrize(("name", "blocks"), [("resnet8", 1), ("resnet14", 2), ("resnet8x4", 1)])
def test_forward_is_the_formula_written_out(name, blocks):
    model = build_model(name, num_classes=5, input_shape=(3, 16, 16)).double()
    inputs = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    model(inputs)  # moves the batch statistics off their start
    model.eval()
    expected = _written_out(inputs, model.state_dict(), blocks)
    torch.testing.assert_close(model(inputs), expected, rtol=1e-10, atol=1e-10)


def test_shortcut_can_be_chosen():
    plain = build_model("resnet8", num_classes=10, input_shape=(3, 32, 32))
    conv = build_model("resnet8", num_classes=10, input_shape=(3, 32, 32), shortcut="conv")
    extra = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert count_parameters(conv) == count_parameters(plain) + extra


@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 14, 14), (3, 28, 28)])
def test_other_image_sizes(shape):
    model = build_model("resnet8", num_classes=3, input_shape=shape)
    assert model(torch.randn(2, *shape)).shape == (2, 3)


def test_second_derivatives_exist():
    model = build_model("resnet8", num_classes=2, input_shape=(1, 8, 8)).double().eval()
    inputs = torch.randn(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    logits = model(inputs)
    (gradient,) = torch.autograd.grad(logits[0, 0], inputs, create_graph=True)
    gradient.square().sum().backward()
    assert model.conv1.weight.grad.abs().sum() > 0
