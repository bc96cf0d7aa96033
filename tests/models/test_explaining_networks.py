"""Networks that explain themselves: who reads what, parameter counts, and coming back."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.errors import ModelError
from limbeck.models import (
    build_model,
    count_parameters,
    load_model,
    model_spec,
    save_model,
)
from limbeck.models.additive import (
    EXPLANATIONS,
    HIDDEN,
    AdditiveHead,
    GroupedLinear,
    explains,
    grouping_of,
    head_that_explains,
)
from limbeck.models.explaining_mlp import matched_width
from limbeck.taps import tap_shapes, tapping

TABLE = {"num_classes": 3, "input_shape": (7,)}
IMAGE = {"num_classes": 10, "input_shape": (3, 16, 16)}


def mlp(**arguments):
    return build_model("explaining_mlp", **TABLE, **{"groups": 3, "like": (12, 12), **arguments})


def resnet(**arguments):
    return build_model("explaining_resnet", **IMAGE, **{"depth": 8, "groups": 2, **arguments})


NETWORKS = {"mlp": (mlp, (7,)), "resnet": (resnet, (3, 16, 16))}
each = pytest.mark.parametrize(("make", "shape"), NETWORKS.values(), ids=NETWORKS)


def test_a_branch_is_a_perceptron_of_its_own_features():
    model = mlp().double()
    group = torch.tensor([2, 0, 1, 0, 2, 1, 1])
    model.grouped.regroup(group)
    inputs = torch.randn(5, 7, dtype=torch.float64)
    with tapping(model, EXPLANATIONS) as store:
        logits = model(inputs)
    total = torch.zeros(5, 3, dtype=torch.float64)
    for i in range(3):
        own = (group == i).nonzero().squeeze(1)
        hidden = inputs[:, own] @ model.grouped.weight[:, own].T + model.grouped.bias[i]
        deeper = model.branches[i][0].linear
        hidden = (hidden.relu() @ deeper.weight.T + deeper.bias).relu()
        head = model.head.branches[i]
        said = (hidden @ head.weight.T + head.bias).softmax(-1)
        torch.testing.assert_close(store[EXPLANATIONS][:, i], (said + 1e-15).log())
        total += (said + 1e-15).log()
    torch.testing.assert_close(logits.softmax(-1), total.softmax(-1))


def test_a_feature_reaches_its_branch_alone():
    model = mlp()
    inputs = torch.randn(1, 7, requires_grad=True)
    with tapping(model, EXPLANATIONS) as store:
        model(inputs)
    for i in range(3):
        (slope,) = torch.autograd.grad(store[EXPLANATIONS][0, i, 0], inputs, retain_graph=True)
        assert not slope[0][model.grouped.group != i].any()


def test_groups_begin_as_neighbours_in_even_parts():
    assert mlp().grouped.group.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert GroupedLinear(4, 2, 4).group.tolist() == [0, 1, 2, 3]


def test_a_branch_starts_at_the_scale_of_a_layer_on_its_features():
    torch.manual_seed(0)
    layer = GroupedLinear(110, 400, 2)
    layer.regroup((torch.arange(110) >= 10).long())
    for i, size in enumerate((10, 100)):
        bound = size**-0.5
        for values in (layer.weight[:, layer.group == i], layer.bias[i]):
            assert 0.97 * bound < float(values.detach().abs().max()) <= bound * (1 + 1e-6)
    before = copy.deepcopy(layer.state_dict())
    layer.regroup(torch.zeros(110, dtype=torch.int64))
    layer.regroup(before["group"])
    for name, value in layer.state_dict().items():
        torch.testing.assert_close(value, before[name])


@pytest.mark.parametrize(
    ("group", "line"),
    [
        (torch.zeros(6, dtype=torch.int64), r"expected int64 \[7\], one .* got int64 \[6\]"),
        (torch.zeros(7), r"expected int64 \[7\], one for each feature, got float32 \[7\]"),
        (torch.arange(7), "groups: expected 0 to 2, got 6"),
        (torch.arange(7) // 3 - 1, "groups: expected 0 to 2, got -1"),
    ],
)
def test_groups_that_are_none_are_refused(group, line):
    with pytest.raises(ModelError, match=line):
        mlp().grouped.regroup(group)


@pytest.mark.parametrize("groups", [1, 2, 4, 7])
@pytest.mark.parametrize("like", [(20,), (20, 20), (200, 200), (50,) * 4, (30, 10)])
def test_the_branches_have_the_parameters_of_the_plain_network(groups, like):
    for features, classes in ((81, 3), (784, 10)):
        shape = {"num_classes": classes, "input_shape": (features,)}
        plain = count_parameters(build_model("mlp", widths=like, **shape))
        ours = build_model("explaining_mlp", like=like, groups=groups, **shape)
        width = ours.head.branches[0].in_features
        more = build_model("explaining_mlp", like=like, groups=groups, width=width + 1, **shape)
        assert count_parameters(ours) <= plain < count_parameters(more)


def test_the_width_is_the_root_of_the_quadratic():
    for groups, like, features, classes in ((4, (500, 500), 784, 10), (4, (50,) * 4, 81, 3)):
        h = matched_width(features, classes, like, groups)
        n, m = len(like), groups
        plain = build_model("mlp", num_classes=classes, input_shape=(features,), widths=like)
        square, line = m * (n - 1), m * (n + classes) + features
        rest = m * classes - count_parameters(plain)
        assert h == int((-line + (line**2 - 4 * square * rest) ** 0.5) / (2 * square))


@pytest.mark.parametrize(
    ("depth", "stages", "width"),
    [(8, 16, 26), (20, 16, 30), (44, 32, 62), (56, 32, 62)],
)
def test_branches_have_the_widths_of_the_authors_code(depth, stages, width):
    """github.com/scbwn/ked at 68e6138, four groups, ten classes; its teachers are twice as wide."""
    shape = {
        "num_classes": 10,
        "input_shape": (3, 32, 32),
        "depth": depth,
        "widths": (stages, stages, 2 * stages, 4 * stages),
        "shortcut": "pad",
    }
    with torch.device("meta"):
        ours, plain = (build_model(name, **shape) for name in ("explaining_resnet", "resnet"))
        more = build_model("explaining_resnet", width=width + 1, **shape)
    assert ours.head.branches[0].in_features == width
    assert count_parameters(ours) <= count_parameters(plain) < count_parameters(more)


@each
def test_explanations_are_distributions_whose_product_is_the_prediction(make, shape):
    model = make().eval()
    model.head.prior.copy_(torch.rand_like(model.head.prior) + 0.1)
    inputs = torch.randn(4, *shape)
    with tapping(model, [EXPLANATIONS, HIDDEN]) as store:
        logits = model(inputs)
    said = store[EXPLANATIONS]
    groups = len(model.head.branches)
    assert said.shape == (4, groups, logits.shape[1])
    torch.testing.assert_close(said.exp().sum(-1), torch.ones(4, groups))
    expected = said.sum(1) - (groups - 1) * model.head.prior.log()
    torch.testing.assert_close(logits, expected)
    assert store[HIDDEN].shape[1] == groups * model.head.branches[0].in_features


@each
def test_they_come_back_with_groups_and_prior(make, shape, tmp_path: Path):
    model = make().eval()
    model.head.prior.copy_(torch.rand_like(model.head.prior) + 0.1)
    spec = model_spec("explaining_mlp", **TABLE, groups=3, like=[12, 12])
    if grouping_of(model) is None:
        spec = model_spec("explaining_resnet", **IMAGE, depth=8, groups=2)
    else:
        model.grouped.regroup(torch.tensor([2, 0, 1, 0, 2, 1, 1]))
    save_model(model, tmp_path, spec)
    inputs = torch.randn(4, *shape)
    assert torch.equal(load_model(tmp_path)(inputs), model(inputs))


@each
def test_they_export_with_a_free_batch_and_are_one_graph(make, shape):
    model = make().eval()
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(model, (torch.randn(2, *shape),), dynamic_shapes=(batch,))
    inputs = torch.randn(5, *shape)
    torch.testing.assert_close(program.module()(inputs), model(inputs))
    compiled = torch.compile(copy.deepcopy(model), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs), model(inputs))
    torch.compiler.reset()


@each
def test_a_gradient_reaches_every_parameter_and_can_be_differentiated(make, shape):
    model = make().eval()
    inputs = torch.randn(3, *shape, requires_grad=True)
    (slope,) = torch.autograd.grad(model(inputs)[:, 0].sum(), inputs, create_graph=True)
    (slope.square().sum() + model(inputs).square().sum()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@each
def test_roles_have_features(make, shape):
    shapes = tap_shapes(make().eval(), ["stages", "penultimate", "head"], torch.randn(1, *shape))
    assert shapes["penultimate"][1] == shapes[list(shapes)[-3]][1]
    assert len(shapes["head"]) == 2


def test_only_explaining_networks_explain():
    assert explains(mlp())
    assert explains(resnet())
    plain = build_model("mlp", **TABLE)
    assert not explains(plain)
    assert isinstance(head_that_explains(mlp()), AdditiveHead)
    with pytest.raises(ModelError, match=r"MLP does not say what .* use explaining_mlp or explain"):
        head_that_explains(plain)
    assert grouping_of(resnet()) is None
    assert grouping_of(nn.Linear(2, 2)) is None


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: mlp(groups=8), "groups: expected at most 7, one a feature, got 8"),
        (lambda: mlp(groups=0), "groups must be a list of positive integers"),
        (lambda: mlp(groups=7, like=(1,)), r"an mlp of widths \[1\] has 14 parameters, too few"),
        (lambda: mlp(like=()), "like must be a list of positive integers"),
        (lambda: mlp(width=0), "width must be a list of positive integers"),
        (lambda: mlp(activation="rely"), "relu"),
        (lambda: resnet(depth=9), "depth must be 6n"),
        (lambda: resnet(shortcut="cone"), "conv"),
        (lambda: resnet(groups=9999), "the plain network has .* parameters, too few"),
        (lambda: resnet(widths=(1, 1, 1, 1), groups=9), "the plain network has .* too few"),
    ],
)
def test_what_cannot_be_built_is_refused(make, line):
    with pytest.raises(ModelError, match=line):
        make()
