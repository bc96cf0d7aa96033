"""What is said of a network before it is used."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.errors import ModelError
from limbeck.models import (
    build_model,
    count_flops,
    count_parameters,
    model_names,
    model_spec,
    save_model,
)
from limbeck.models.describe import describe_network, describe_networks


def test_a_network_is_described_as_it_is_built():
    described = describe_network("resnet8", num_classes=4, input_shape=[1, 12, 12], shortcut="conv")
    model = build_model("resnet8", num_classes=4, input_shape=(1, 12, 12), shortcut="conv")
    assert described.parameters == count_parameters(model)
    assert described.flops == count_flops(model, torch.randn(1, 1, 12, 12))
    assert described.arguments == {"widths": (16, 16, 32, 64), "shortcut": "conv"}
    assert described.paper == "He et al. 2016, arXiv 1512.03385"
    assert described.roles == {
        "stages": {"layer1": (16, 12, 12), "layer2": (32, 6, 6), "layer3": (64, 3, 3)},
        "preactivations": {
            "layer1.0.relu2:in": (16, 12, 12),
            "layer2.0.relu2:in": (32, 6, 6),
            "layer3.0.relu2:in": (64, 3, 3),
        },
        "penultimate": {"pool": (64,)},
        "head": {"linear": (4,)},
    }


def test_describing_draws_nothing_and_needs_no_memory_for_weights():
    before = torch.get_rng_state()
    described = describe_network(
        "mlp", num_classes=10, input_shape=(1_000_000,), widths=[1_000_000]
    )
    assert described.parameters == 10**12 + 10**6 + 10**7 + 10  # four terabytes
    assert torch.equal(torch.get_rng_state(), before)


def test_the_catalogue_has_every_network_and_its_paper():
    found = describe_networks()
    assert [network.name for network in found] == model_names()
    for network in found:
        assert network.parameters > 1000, network.name
        assert network.summary.endswith("."), network.name
        if network.name not in ("mlp", "cnn"):
            assert re.fullmatch(r"[\w. ]+ 20\d\d, arXiv \d{4}\.\d{5}|.*1409\.1556", network.paper)
    json.dumps([network.plain() for network in found])


def test_networks_that_refuse_a_shape_say_why():
    found = {network.name: network for network in describe_networks(input_shape=(9,))}
    assert found["mlp"].parameters == (9 + 1) * 256 + 257 * 256 + 257 * 100
    assert found["vgg8"].parameters is None
    assert "'vgg' reads images" in found["vgg8"].refused


def test_networks_from_elsewhere():
    described = describe_network("timm/resnet18", num_classes=5, input_shape=(3, 64, 64))
    assert described.parameters == 11_176_512 + 5 * 513  # torchvision's without its head
    assert described.roles["stages"]["layer4"] == (512, 2, 2)
    assert list(described.roles) == ["stages", "penultimate", "head"]
    plain = describe_network("py:torch.nn:Identity", input_shape=(7,))
    assert (plain.parameters, plain.flops, plain.roles) == (0, 0, {})


def test_a_folder_knows_its_classes_and_shape(tmp_path: Path):
    given = {"num_classes": 6, "input_shape": (1, 8, 8)}
    save_model(build_model("cnn", **given), tmp_path, model_spec("cnn", **given))
    described = describe_network(str(tmp_path))
    assert (described.num_classes, described.input_shape) == (6, (1, 8, 8))
    assert described.roles["head"] == {"head": (6,)}
    with pytest.raises(ModelError, match="was saved with num_classes 6, these data need 7"):
        describe_network(str(tmp_path), num_classes=7)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("vg8", {}, "unknown model 'vg8': did you mean 'vgg8'"),
        ("vgg8", {"num_classes": "x"}, "num_classes must be at least 1, got 'x'"),
        ("vgg8", {"input_shape": 28}, "input_shape must be the shape of one sample"),
        ("vgg8", {"input_shape": [3, 0, 4]}, "input_shape must be the shape of one sample"),
        ("vgg8", {"width": 3}, "argument of model 'vgg8': 'width'"),
        ("timm/vit_tiny_patch16_224", {}, r"cannot read samples of shape \(3, 32, 32\): Input"),
    ],
)
def test_refusals_of_descriptions_are_one_clear_line(name, given, message):
    with pytest.raises(ModelError, match=message) as caught:
        describe_network(name, **given)
    assert "\n" not in str(caught.value)


def test_a_registered_builder_without_paper_or_docstring(monkeypatch):
    from limbeck.models import register_model, registry

    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))

    @register_model("bare")
    def bare(num_classes, input_shape):
        return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes))

    described = describe_network("bare", num_classes=2, input_shape=(3, 2, 2))
    assert (described.paper, described.summary, described.parameters) == (None, "", 26)
    assert described.roles["penultimate"] == {"1:in": (12,)}
