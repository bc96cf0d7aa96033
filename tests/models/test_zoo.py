"""The networks of the CIFAR-100 distillation tables: sizes, roles, and what every one can do."""

import copy
from pathlib import Path

import pytest
import torch

from limbeck.errors import ModelError
from limbeck.models import (
    build_model,
    count_parameters,
    load_model,
    model_names,
    model_spec,
    save_model,
)
from limbeck.taps import head_of, pair_taps, roles_of, tap_shapes, tapping

CONV = {"shortcut": "conv"}
PUBLISHED = [
    ("resnet8", CONV, 83_892),
    ("resnet14", CONV, 181_108),
    ("resnet20", CONV, 278_324),
    ("resnet32", CONV, 472_756),
    ("resnet44", CONV, 667_188),
    ("resnet56", CONV, 861_620),
    ("resnet110", CONV, 1_736_564),
    ("resnet8x4", {}, 1_233_540),
    ("resnet32x4", {}, 7_433_860),
    ("resnet18", {}, 11_220_132),
    ("resnet50", {}, 23_705_252),
    ("wrn16_1", {}, 180_916),
    ("wrn16_2", {}, 703_284),
    ("wrn40_1", {}, 569_780),
    ("wrn40_2", {}, 2_255_156),
    ("vgg8", {}, 3_965_028),
    ("vgg11", {}, 9_277_284),
    ("vgg13", {}, 9_462_180),
    ("vgg16", {}, 14_774_436),
    ("vgg19", {}, 20_086_692),
    ("mobilenetv2_half", {}, 812_836),
    ("shufflenetv1", {}, 949_258),
    ("shufflenetv2", {}, 1_355_528),
]

# One small member of each family.
FAMILIES = {
    "resnet8": CONV,
    "resnet18": {},
    "wrn16_1": {},
    "vgg8": {},
    "mobilenetv2_half": {},
    "shufflenetv1": {},
    "shufflenetv2": {},
    "mixer": {"depth": 2, "dim": 32},
    "vit": {"depth": 2, "dim": 48, "attention": "eager"},
}
SMALL = [*FAMILIES, "resnet50"]


def build(name, shape=(3, 32, 32), classes=10):
    return build_model(name, num_classes=classes, input_shape=shape, **FAMILIES.get(name, {}))


@pytest.mark.parametrize(("name", "arguments", "parameters"), PUBLISHED)
def test_parameter_counts_are_those_of_the_tables(name, arguments, parameters):
    """Counts of github.com/HobbitLong/RepDistiller at b84f547, with 100 classes.

    Those of github.com/megvii-research/mdistiller at a08d46f are the same; resnet18 is there only.
    """
    with torch.device("meta"):
        model = build_model(name, num_classes=100, input_shape=(3, 32, 32), **arguments)
    assert count_parameters(model) == parameters


@pytest.mark.parametrize(
    ("name", "stages", "penultimate"),
    [
        ("resnet8", [(16, 32, 32), (32, 16, 16), (64, 8, 8)], (64,)),
        ("resnet18", [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)], (512,)),
        ("resnet50", [(256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4)], (2048,)),
        ("wrn40_2", [(32, 32, 32), (64, 16, 16), (128, 8, 8)], (128,)),
        (
            "vgg13",
            [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 4, 4)],
            (512,),
        ),
        ("mobilenetv2_half", [(12, 16, 16), (16, 8, 8), (48, 4, 4), (160, 2, 2)], (1280,)),
        ("shufflenetv1", [(240, 16, 16), (480, 8, 8), (960, 4, 4)], (960,)),
        ("shufflenetv2", [(116, 16, 16), (232, 8, 8), (464, 4, 4)], (1024,)),
        ("mixer", [(64, 32)] * 2, (32,)),
        ("vit_tiny", [(65, 192)] * 12, (192,)),
    ],
)
def test_roles_give_features_of_the_expected_shapes(name, stages, penultimate):
    model, images = build(name), torch.randn(1, 3, 32, 32)
    shapes = tap_shapes(model, ["stages", "penultimate", "head"], images)
    assert [s[1:] for tap, s in shapes.items() if tap.startswith("stages")] == stages
    assert (shapes["penultimate"][1:], shapes["head"][1:]) == (penultimate, (10,))


# Of a wide residual network the preactivations are normed and one block later, but as many.
@pytest.mark.parametrize("name", [name for name in SMALL if name not in ("mixer", "vit")])
def test_preactivations_have_the_shapes_of_the_stages_and_both_signs(name):
    model, images = build(name), torch.randn(2, 3, 32, 32)
    if name == "shufflenetv2":  # half of the channels have no preactivation there
        assert "preactivations" not in roles_of(model)
        return
    before = tap_shapes(model, "preactivations", images)
    assert list(before.values()) == list(tap_shapes(model, "stages", images).values())
    with tapping(model, "preactivations") as store:
        model(images)
    assert all(tensor.min() < 0 < tensor.max() for tensor in store.values())


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (2, 8, 8)])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_gradient_reaches_every_parameter(name, shape):
    model = build(name, shape)
    model(torch.randn(4, *shape))  # in training mode: batch statistics move
    model.eval()  # a bias before a norm over the batch has no gradient by design
    logits = model(torch.randn(2, *shape))
    assert logits.shape == (2, 10)
    logits.square().sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 32, 48), (3, 13, 9)])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("mixer", "vit")])
def test_convolutional_networks_read_any_shape(name, shape):
    assert build(name, shape)(torch.randn(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_copy_is_independent_and_equal(name):
    model = build(name).eval()
    twin, images = copy.deepcopy(model), torch.randn(2, 3, 32, 32)
    assert torch.equal(twin(images), model(images))
    with torch.no_grad():
        head_of(twin).weight.zero_()
    assert not torch.equal(twin(images), model(images))


@pytest.mark.parametrize("name", FAMILIES)
def test_saved_networks_come_back_bit_for_bit(name, tmp_path: Path):
    given = {"num_classes": 7, "input_shape": (1, 16, 16), **FAMILIES[name]}
    model, images = build_model(name, **given), torch.randn(4, 1, 16, 16)
    model(images)
    save_model(model, tmp_path, model_spec(name, **given))
    loaded = load_model(tmp_path)
    assert torch.equal(loaded(images), model.eval()(images))
    assert type(loaded) is type(model)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_can_be_differentiated(name):
    model = build(name, (1, 8, 8)).double().eval()
    images = torch.randn(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(images)[0, 3], images, create_graph=True)
    gradient.square().sum().backward()
    first = next(p for p in model.parameters() if p.ndim == 4)
    assert first.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "name",
    [
        "cnn",
        "vit_tiny",  # fused attention too
        *(pytest.param(name, marks=pytest.mark.slow) for name in (*FAMILIES, "mlp")),
    ],
)
def test_networks_are_exported_with_a_free_batch(name):
    model = build(name, (3, 16, 16)).eval()
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(model, (torch.randn(2, 3, 16, 16),), dynamic_shapes=(batch,))
    images = torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(program.module()(images), model(images))


def check_compiled(name, backend):
    model, images = build(name, (3, 16, 16)), torch.randn(2, 3, 16, 16)
    compiled = torch.compile(copy.deepcopy(model), backend=backend, fullgraph=True)
    found = compiled(images)
    torch.testing.assert_close(found, model(images))
    found.sum().backward()
    assert all(p.grad is not None for p in compiled.parameters())
    torch.compiler.reset()


@pytest.mark.parametrize("name", ["cnn", "mlp", "wrn16_1", "vgg8", "mixer"])
def test_networks_are_one_graph(name):
    check_compiled(name, "eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_networks_compile_with_their_backward_pass(name):
    check_compiled(name, "aot_eager")


@pytest.mark.parametrize(
    ("student", "teacher", "sizes"),
    [
        ("wrn16_1", "resnet8", [(32, 32), (16, 16), (8, 8)]),
        ("vgg8", "resnet8", [(32, 32), (16, 16), (8, 8)]),  # by size: 3 of the 5 blocks
        ("shufflenetv1", "resnet18", [(16, 16), (8, 8), (4, 4)]),
        ("shufflenetv2", "vgg8", [(16, 16), (8, 8), (4, 4)]),
        ("mobilenetv2_half", "resnet18", [(16, 32), (8, 16), (4, 8), (2, 4)]),  # as many: in order
        ("resnet8", "mobilenetv2_half", [(32, 16), (16, 4), (8, 2)]),  # by relative depth
        ("mixer", "vit", [None, None]),
    ],
)
def test_stages_of_different_families_pair_up(student, teacher, sizes):
    images = torch.randn(1, 3, 32, 32)
    pairs = pair_taps(build(student), build(teacher), "auto", student_example=images)
    assert len(pairs) == len(sizes)
    for pair, size in zip(pairs, sizes, strict=True):
        if size is not None:
            assert (pair.student_shape[-1], pair.teacher_shape[-1]) == size


@pytest.mark.parametrize("name", SMALL)
def test_no_activation_of_the_zoo_works_in_place(name):
    assert not [m for m in build(name).modules() if getattr(m, "inplace", False)]


def test_every_named_network_is_built():
    for name in model_names():
        with torch.device("meta"):
            model = build_model(name, num_classes=3, input_shape=(3, 32, 32))
        assert roles_of(model)["head"], name


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("wrn", {"depth": 18}, r"depth must be 6n\+4 \(10, 16, 22, 28, 40, ...\), got 18"),
        ("wrn", {"widen": 0}, "widen must be a list of positive integers"),
        ("wrn16_2", {"dropout": 1.0}, "dropout must lie in"),
        ("wrn16_2", {"widen": 4}, "argument of model 'wrn16_2'"),
        ("wrn17_2", {}, "unknown model 'wrn17_2': did you mean 'wrn16_2'"),
        ("vgg", {"depth": 12}, "depth of a vgg must be one of 8, 11, 13, 16, 19, got 12"),
        ("vgg8", {"input_shape": (1, 7, 8)}, "needs at least 8x8 pixels, got 7x8"),
        ("vgg8", {"input_shape": (64,)}, r"'vgg' reads images .* not \(64,\)"),
        ("mobilenetv2", {"width": 0}, r"width must lie in \[1/16, 16\], got 0"),
        ("mobilenetv2", {"width": "half"}, "model 'mobilenetv2' with"),
        ("mobilenetv2", {"expansion": 1.5}, "expansion must be"),
        ("shufflenetv1", {"channels": (240, 480)}, "channels must be 3 numbers"),
        ("shufflenetv1", {"channels": (240, 480, 904)}, "divisible by groups 3"),
        ("shufflenetv1", {"channels": (24, 48, 96)}, "channels must grow from 24"),
        ("shufflenetv1", {"groups": 0}, "groups must be"),
        ("shufflenetv2", {"channels": (116, 233, 464, 1024)}, "three even ones"),
        ("shufflenetv2", {"channels": (116, 232, 464)}, "channels must be 4 numbers"),
        ("resnet50", {"blocks": (1, 1, 1, 1)}, "argument of model 'resnet50'"),
        ("mixer", {"patch": 5}, "patch 5 does not divide the image 8x8"),
        ("mixer", {"token_hidden": 0}, "token_hidden must be"),
        ("mixer", {"dropout": -1}, "dropout must lie in"),
    ],
)
def test_refusals_of_the_zoo_are_one_clear_line(name, given, message):
    with pytest.raises(ModelError, match=message) as caught:
        build_model(name, **{"num_classes": 3, "input_shape": (1, 8, 8), **given})
    assert "\n" not in str(caught.value)


def test_blocks_of_a_deep_resnet_are_four():
    from limbeck.models import DeepResNet

    with pytest.raises(ModelError, match="blocks must be 4 numbers, one a stage, got"):
        DeepResNet(3, (3, 8, 8), blocks=(1, 1, 1))
