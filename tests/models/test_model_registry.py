"""Building by name, and every refusal."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.errors import ModelError
from limbeck.models import build_model, model_arguments, model_names, register_model, registry

NAMES = ["mlp", "cnn", "vit", "resnet8", "resnet20", "resnet110", "resnet8x4", "resnet32x4"]


def test_names_are_listed_with_numbers_in_order():
    names = model_names()
    assert set(NAMES) <= set(names)
    assert names.index("resnet8") < names.index("resnet20") < names.index("resnet110")


@pytest.mark.parametrize("name", ["mlp", "cnn", "vit", "resnet", "resnet8", "resnet8x4"])
def test_built_networks_give_logits_and_gradients_everywhere(name):
    model = build_model(name, num_classes=7, input_shape=(2, 16, 16))
    logits = model(torch.randn(3, 2, 16, 16))
    assert logits.shape == (3, 7)
    logits.square().sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # A pre-activation network without biases before norms has no parameter that cannot learn,
    # but dead ReLUs may silence single units, never whole tensors.
    assert silent == []


def test_weights_come_from_the_global_generator():
    torch.manual_seed(3)
    first = build_model("resnet8", num_classes=4, input_shape=(3, 8, 8)).state_dict()
    torch.manual_seed(3)
    second = build_model("resnet8", num_classes=4, input_shape=(3, 8, 8)).state_dict()
    third = build_model("resnet8", num_classes=4, input_shape=(3, 8, 8)).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], third["conv1.weight"])


@pytest.mark.parametrize("name", ["mlp", "cnn", "vit", "resnet8", "resnet8x4"])
def test_no_activation_works_in_place(name):
    model = build_model(name, num_classes=3, input_shape=(1, 8, 8))
    assert not [m for m in model.modules() if getattr(m, "inplace", False)]


@pytest.mark.parametrize("name", ["mlp", "cnn", "vit", "resnet8", "resnet8x4"])
def test_roles_name_modules_and_say_what_they_promise(name):
    model = build_model(name, num_classes=5, input_shape=(3, 16, 16)).eval()
    seen = {}
    for path, module in model.named_modules():
        module.register_forward_hook(
            lambda m, args, out, path=path: seen.update({path: (args[0], out)})
        )
    logits = model(torch.randn(2, 3, 16, 16))
    roles = model.roles()
    for path in roles["stages"]:
        assert seen[path][1].ndim in (2, 3, 4)
        if name != "vit":
            assert seen[path][1].min() >= 0  # after the ReLU
    pooled = seen[roles["penultimate"]][1]
    assert pooled.ndim == 2
    assert torch.equal(seen[roles["head"]][0], pooled)
    assert torch.equal(model.get_submodule(roles["head"])(pooled), logits)


def test_unknown_model_names_the_nearest():
    with pytest.raises(ModelError, match="unknown model 'resnet8x': did you mean 'resnet8"):
        build_model("resnet8x", num_classes=10, input_shape=(3, 32, 32))


def test_unknown_argument_names_the_nearest():
    with pytest.raises(ModelError, match=r"model 'mlp'.*'width': did you mean 'widths'"):
        build_model("mlp", num_classes=10, input_shape=(4,), width=[3])


def test_a_name_fixes_its_arguments():
    assert "depth" in model_arguments("resnet")
    assert "depth" not in model_arguments("resnet20")
    with pytest.raises(ModelError, match="argument of model 'resnet20'"):
        build_model("resnet20", num_classes=10, input_shape=(3, 32, 32), depth=8)


def test_a_name_is_registered_once():
    with pytest.raises(ModelError, match="'mlp' is registered already"):
        register_model("mlp")(nn.Linear)


def test_registering_makes_a_model_buildable(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))

    @register_model("tiny", bias=False)
    def tiny(num_classes, input_shape, *, scale=1.0, bias=True):
        layer = nn.Linear(math.prod(input_shape), num_classes, bias=bias)
        nn.init.constant_(layer.weight, scale)
        return layer

    model = build_model("tiny", num_classes=2, input_shape=(3,), scale=2.0)
    assert model.bias is None
    assert model(torch.ones(1, 3)).tolist() == [[6.0, 6.0]]
    assert model_arguments("tiny") == {"scale": 1.0}


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("mlp", {"num_classes": 0}, "num_classes of at least 1, got 0"),
        ("mlp", {"num_classes": None}, "needs num_classes"),
        ("mlp", {"input_shape": None}, "needs input_shape"),
        ("mlp", {"input_shape": ()}, "needs input_shape"),
        ("mlp", {"widths": [3, 0]}, "widths must be a list of positive integers"),
        ("mlp", {"widths": "large"}, "widths must be a list of positive integers"),
        ("mlp", {"dropout": 1.0}, "dropout must lie in"),
        ("mlp", {"dropout": "a"}, "model 'mlp' with"),
        ("mlp", {"activation": "rulu"}, "unknown activation 'rulu': did you mean 'relu'"),
        ("cnn", {"input_shape": (4,)}, r"'cnn' reads images .* not \(4,\)"),
        ("cnn", {"norm": "bach"}, "unknown norm 'bach': did you mean 'batch'"),
        ("cnn", {"channels": []}, "channels must be a list"),
        ("cnn", {"layers": 0}, "layers must be"),
        ("resnet", {"depth": 21}, "depth must be 6n"),
        ("resnet", {"widths": [4, 4]}, "widths must be 4 numbers"),
        ("resnet", {"widths": [8, 8, 4, 4]}, "do not shrink"),
        ("resnet20", {"shortcut": "pat"}, "unknown shortcut 'pat': did you mean 'pad'"),
        ("vit", {"patch": 3}, "patch 3 does not divide the image 8x8"),
        ("vit", {"heads": 5}, "heads 5 does not divide dim 96"),
        ("vit", {"pooling": "max"}, "unknown pooling 'max'"),
        ("vit", {"attention": "eagre"}, "did you mean 'eager'"),
        ("vit", {"depth": 1.5}, "depth must be"),
    ],
)
def test_refusals_are_one_clear_line(name, given, message):
    arguments = {"num_classes": 3, "input_shape": (1, 8, 8), **given}
    with pytest.raises(ModelError, match=message) as caught:
        build_model(name, **arguments)
    assert "\n" not in str(caught.value)


def test_a_path_that_is_no_folder_says_what_is_expected(tmp_path: Path):
    with pytest.raises(ModelError, match=r"no model\.json in .*expected a folder with"):
        build_model(str(tmp_path / "absent"))
