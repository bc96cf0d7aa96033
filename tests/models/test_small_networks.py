"""MLP, CNN and ViT against what their definitions say."""

import pytest
import torch
from torch.nn import functional as F

from limbeck.models import build_model, count_parameters
from limbeck.models.calling import twice_differentiable_attention


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 14, 14), (1, 28, 28), (3, 32, 32), (2, 3, 3)])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_cnn_takes_any_image_size(shape, norm):
    model = build_model("cnn", num_classes=6, input_shape=shape, channels=(4, 8, 32), norm=norm)
    assert model(torch.randn(2, *shape)).shape == (2, 6)


def test_cnn_parameter_count_by_arithmetic():
    model = build_model("cnn", num_classes=10, input_shape=(1, 8, 8), channels=(4, 8), layers=2)
    convolutions = 9 * (1 * 4 + 4 * 4 + 4 * 8 + 8 * 8)
    norms = 2 * (4 + 4 + 8 + 8)
    assert count_parameters(model) == convolutions + norms + 8 * 10 + 10


def test_cnn_without_norm_is_the_plain_formula():
    model = build_model("cnn", num_classes=3, input_shape=(2, 5, 5), channels=(4, 6), norm="none")
    weights = dict(model.named_parameters())
    inputs = torch.randn(2, 2, 5, 5)
    first, second = weights["stages.0.conv1.weight"], weights["stages.1.conv1.weight"]
    hidden = F.conv2d(inputs, first, weights["stages.0.conv1.bias"], padding=1).clamp(min=0)
    hidden = F.max_pool2d(hidden, 2, ceil_mode=True)
    hidden = F.conv2d(hidden, second, weights["stages.1.conv1.bias"], padding=1).clamp(min=0)
    expected = hidden.mean(dim=(2, 3)) @ weights["head.weight"].T + weights["head.bias"]
    torch.testing.assert_close(model(inputs), expected)


@pytest.mark.parametrize("norm", ["group", "none"])
def test_cnn_without_batch_statistics_sees_each_sample_alone(norm):
    model = build_model("cnn", num_classes=3, input_shape=(1, 8, 8), norm=norm).double().train()
    inputs = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    alone = torch.cat([model(sample[None]) for sample in inputs])
    torch.testing.assert_close(model(inputs), alone, rtol=1e-12, atol=1e-12)


def test_mlp_is_the_plain_formula():
    model = build_model("mlp", num_classes=3, input_shape=(2, 2), widths=(5, 4), activation="tanh")
    w = list(model.parameters())
    inputs = torch.randn(6, 2, 2)
    hidden = torch.tanh(torch.tanh(inputs.flatten(1) @ w[0].T + w[1]) @ w[2].T + w[3])
    torch.testing.assert_close(model(inputs), hidden @ w[4].T + w[5])


def test_mlp_without_hidden_layers_is_linear():
    model = build_model("mlp", num_classes=2, input_shape=(4,), widths=[])
    assert count_parameters(model) == 4 * 2 + 2
    assert model.roles()["penultimate"] == "flatten"
    assert model.roles()["stages"] == []


def test_mlp_dropout_leaves_tapped_activations_clean():
    model = build_model("mlp", num_classes=2, input_shape=(4,), widths=(8, 64), dropout=0.5)
    seen = []
    model.hidden[0].register_forward_hook(lambda m, args, out: seen.append(out))
    inputs = torch.randn(3, 4)
    first, second = model(inputs), model(inputs)
    assert not torch.equal(first, second)
    assert torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_vit_attention_forms_agree(pooling):
    model = build_model("vit", num_classes=4, input_shape=(3, 8, 8), depth=2, pooling=pooling)
    model = model.double().eval()
    inputs = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    fused = model(inputs)
    model.set_attention("eager")
    torch.testing.assert_close(model(inputs), fused, rtol=1e-10, atol=1e-10)


def test_vit_eager_attention_is_the_formula_head_by_head():
    model = build_model("vit", num_classes=4, input_shape=(1, 4, 4), dim=6, heads=2, patch=2)
    attention = model.double().blocks[0].attention
    attention.mode = "eager"
    tokens = torch.randn(1, 5, 6, dtype=torch.float64)
    query, key, value = (tokens[0] @ attention.qkv.weight.T + attention.qkv.bias).split(6, dim=1)
    heads = []
    for start in (0, 3):
        part = slice(start, start + 3)
        weights = torch.softmax(query[:, part] @ key[:, part].T / 3**0.5, dim=1)
        heads.append(weights @ value[:, part])
    expected = torch.cat(heads, dim=1) @ attention.projection.weight.T + attention.projection.bias
    torch.testing.assert_close(attention(tokens)[0], expected)


def test_vit_eager_attention_has_second_derivatives():
    model = build_model(
        "vit", num_classes=2, input_shape=(1, 4, 4), dim=4, heads=2, depth=1, attention="eager"
    ).double()
    inputs = torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(model, inputs)


def test_fused_attention_of_any_module_can_be_made_twice_differentiable():
    model = build_model("vit", num_classes=2, input_shape=(1, 4, 4), dim=4, heads=2, depth=1)
    inputs = torch.randn(1, 1, 4, 4, requires_grad=True)

    def second_derivative():
        (gradient,) = torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)
        gradient.square().sum().backward()

    with pytest.raises(RuntimeError, match="not implemented"):
        second_derivative()
    with twice_differentiable_attention():
        second_derivative()
    assert inputs.grad.abs().sum() > 0


def test_vit_pools_tokens_by_mean_without_a_class_token():
    model = build_model("vit", num_classes=2, input_shape=(1, 8, 8), pooling="mean", depth=1)
    assert model.class_token is None
    assert model.positions.shape == (1, 4, 96)
    tokens = torch.randn(2, 4, 96)
    torch.testing.assert_close(model.pool(tokens), sum(tokens[:, i] for i in range(4)) / 4)
