"""B-cos layers against loops, and networks of them: each logit is W(x) times the encoded pixels."""

import math

import pytest
import torch
from torch import nn

from limbeck.errors import ModelError
from limbeck.models import BcosConv2d, BcosLinear, build_model, explanation_mode
from limbeck.models.bcos_layers import Encode, UncentredBatchNorm2d

NETWORKS = {"bcos_cnn": {"channels": (4, 6)}, "bcos_resnet": {"depth": 8, "widths": (3, 3, 4, 5)}}


def network(name: str = "bcos_cnn", **arguments) -> nn.Module:
    torch.manual_seed(3)
    made = build_model(
        name, num_classes=5, input_shape=(2, 8, 8), **NETWORKS[name], **arguments
    ).double()
    made.train()
    for _ in range(3):  # variances of its own
        made(torch.rand(6, 2, 8, 8, dtype=torch.float64))
    return made.eval()


def answer_by_hand(x: list[float], w: list[float], b: float, *, under_root: float) -> float:
    """|cos(x, w)|^(b-1) of the unit kernel's answer."""
    length = math.sqrt(sum(v * v for v in w))
    dot = sum(a * v / length for a, v in zip(x, w, strict=True))
    norm = math.sqrt(sum(a * a for a in x) + under_root)
    return abs(dot / norm) ** (b - 1) * dot


@pytest.mark.parametrize("b", [1.0, 1.5, 2.0, 3.0])
def test_linear_layer_against_loops(b):
    layer = BcosLinear(4, 3, b=b).double()
    inputs = torch.randn(5, 4, dtype=torch.float64)
    expected = [
        [answer_by_hand(x, w, b, under_root=0.0) for w in layer.weight.tolist()]
        for x in inputs.tolist()
    ]
    # b other than 2 adds 1e-6 to the cosine, so that its power has a slope at 0
    close = {"rtol": 1e-9, "atol": 0} if b in (1.0, 2.0) else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(layer(inputs), torch.tensor(expected, dtype=torch.float64), **close)


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (1, 0)])
def test_convolution_against_loops(stride, padding):
    layer = BcosConv2d(2, 3, 3, stride=stride, padding=padding).double()
    inputs = torch.randn(2, 2, 5, 6, dtype=torch.float64)
    found = layer(inputs)
    padded = nn.functional.pad(inputs, (padding,) * 4)
    for n, k, i, j in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
        y, x = i * stride, j * stride
        patch = padded[n, :, y : y + 3, x : x + 3].flatten().tolist()
        expected = answer_by_hand(patch, layer.weight[k].flatten().tolist(), 2.0, under_root=1e-6)
        assert found[n, k, i, j].item() == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_the_length_of_a_kernel_says_nothing():
    layer = BcosConv2d(2, 3, 3)
    inputs = torch.randn(2, 2, 5, 5)
    before = layer(inputs).detach()
    with torch.no_grad():
        layer.weight *= 7
    torch.testing.assert_close(layer(inputs), before)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("b", [2.0, 1.25])
def test_a_logit_is_its_explanation_times_the_pixels(name, b):
    """The bar of B-cos networks: W(x) explains the logit in full, and changes no output."""
    model, images = network(name, b=b), torch.rand(3, 2, 8, 8, dtype=torch.float64)
    encoded = model.encode(images).detach().requires_grad_()
    plain = model(images)
    with explanation_mode():
        said = model.head(model.pool(model.stages(encoded)))
        for label in range(5):
            (weights,) = torch.autograd.grad(said[:, label].sum(), encoded, retain_graph=True)
            whole = (weights * encoded).sum((1, 2, 3))
            torch.testing.assert_close(whole, said[:, label], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(said, plain, rtol=0, atol=0)


def test_outside_of_the_mode_the_gradient_is_another():
    model, images = network(), torch.rand(3, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(model(images)[:, 0].sum(), images)
    with explanation_mode():
        (weights,) = torch.autograd.grad(model(images)[:, 0].sum(), images)
    assert (slope - weights).abs().max() > 1e-3
    assert torch.autograd.gradcheck(model, images.detach()[:1, :, :4, :4].requires_grad_())


def test_the_mode_ends_with_its_context_also_after_an_error_and_nests():
    model, images = network(), torch.rand(2, 2, 8, 8, dtype=torch.float64, requires_grad=True)

    def slope():
        return torch.autograd.grad(model(images).sum(), images)[0]

    outside = slope()
    with explanation_mode():
        with explanation_mode():
            pass
        assert not torch.equal(slope(), outside)  # the inner one did not end the outer one
    with pytest.raises(ValueError), explanation_mode():
        raise ValueError
    torch.testing.assert_close(slope(), outside, rtol=0, atol=0)


def test_batch_norm_divides_and_subtracts_nothing():
    norm = UncentredBatchNorm2d(3, momentum=0.25).double()
    inputs = 2 + torch.randn(4, 3, 5, 5, dtype=torch.float64)
    variance = inputs.transpose(0, 1).flatten(1).var(1, correction=0)
    expected = inputs / (variance + 1e-5).sqrt()[:, None, None]
    torch.testing.assert_close(norm(inputs), expected)
    torch.testing.assert_close(norm.running_var, 0.75 + 0.25 * variance)
    with explanation_mode():  # a second look at the same batch is not counted
        norm(inputs * 3)
    torch.testing.assert_close(norm.running_var, 0.75 + 0.25 * variance)
    running = (norm.running_var + 1e-5).sqrt()[:, None, None]
    torch.testing.assert_close(norm.eval()(inputs), inputs / running)


def test_pixels_are_encoded_beside_their_opposite_and_normalisation_is_undone():
    pixels = torch.rand(2, 3, 4, 4)
    mean, std = torch.tensor((0.1, 0.2, 0.3)), torch.tensor((0.5, 0.6, 0.7))
    inputs = (pixels - mean[:, None, None]) / std[:, None, None]
    found = Encode((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))(inputs)
    torch.testing.assert_close(found, torch.cat([pixels, 1 - pixels], 1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"b": 0.5}, "b must be a number of at least 1, got 0.5"),
        ({"std": 0}, "std must be one number above 0, or 2, got 0"),
        ({"mean": (0.1, 0.2, 0.3)}, r"mean must be one number, or 2, got \(0.1, 0.2, 0.3\)"),
        ({"channels": (0,)}, "channels must be"),
        ({"layers": 2}, "argument of model 'bcos_cnn'"),
        ({"input_shape": (64,)}, r"'bcos_cnn' reads images .* not \(64,\)"),
    ],
)
def test_refusals_of_bcos_networks(given, message):
    with pytest.raises(ModelError, match=message):
        build_model("bcos_cnn", **{"num_classes": 3, "input_shape": (2, 8, 8), **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [({"depth": 9}, r"depth must be 6n\+2"), ({"widths": (4, 4)}, "widths must be 4 numbers")],
)
def test_refusals_of_bcos_resnets(given, message):
    with pytest.raises(ModelError, match=message):
        build_model("bcos_resnet", num_classes=3, input_shape=(2, 8, 8), **given)
