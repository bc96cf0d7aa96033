"""Real networks of torchvision: files, its named weights (none is fetched), and refusals."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from limbeck.errors import ModelError
from limbeck.models import build_model
from limbeck.models.pretrained_config import expected_size, expected_statistics, pretrained_config
from limbeck.taps import roles_of


def build(name: str, num_classes: int = 5, shape=(3, 32, 32), **arguments):
    return build_model(
        f"torchvision/{name}", num_classes=num_classes, input_shape=shape, **arguments
    )


def test_built_with_our_classes() -> None:
    model = build("mobilenet_v3_small")
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    assert roles_of(model)["head"] == "classifier.3"
    assert expected_statistics(model) is None


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(4)
    model = models.get_model("shufflenet_v2_x0_5", num_classes=5)
    path = tmp_path / f"weights{suffix}"
    save_file(model.state_dict(), path) if suffix == ".safetensors" else torch.save(
        {"model": model.state_dict()}, path
    )
    same = build("shufflenet_v2_x0_5", weights=str(path)).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in model.state_dict().items())
    other = build("shufflenet_v2_x0_5", num_classes=3, weights=str(path))
    assert other.fc.weight.shape[0] == 3
    assert torch.equal(other.conv5[0].weight, model.conv5[0].weight)
    with pytest.raises(ModelError, match="'torchvision/resnet18': weights"):
        build("resnet18", weights=str(path))


def test_named_weights_bring_statistics_and_size(monkeypatch) -> None:
    torch.manual_seed(5)
    published = models.get_model("shufflenet_v2_x0_5").state_dict()  # 1000 classes
    enum = models.get_model_weights("shufflenet_v2_x0_5")
    monkeypatch.setattr(enum, "get_state_dict", lambda self, **options: dict(published))
    model = build("shufflenet_v2_x0_5", num_classes=1000, weights="IMAGENET1K_V1")
    assert all(torch.equal(value, published[name]) for name, value in model.state_dict().items())
    assert expected_statistics(model).mean == (0.485, 0.456, 0.406)
    assert expected_size(model) == (224, 224)
    assert pretrained_config(model)["num_classes"] == 1000
    small = build("shufflenet_v2_x0_5", weights="DEFAULT")
    assert small.fc.weight.shape[0] == 5
    assert pretrained_config(small)["num_classes"] == 1000  # of the weights


@pytest.mark.parametrize(
    ("name", "given", "line"),
    [
        ("resnet19", {}, "unknown model 'torchvision/resnet19': did you mean"),
        ("resnet18", {"weights": "IMAGENET1K"}, "unknown weights 'IMAGENET1K': did you mean"),
        ("resnet18", {"weights": "no/file.pth"}, "there is no file no/file.pth"),
        ("resnet18", {"pretrained": True}, "say weights: DEFAULT"),
        ("resnet18", {"shape": (1, 8, 8)}, "reads images of three channels"),
        ("resnet18", {"depth": 3}, "torchvision cannot build 'torchvision/resnet18'"),
    ],
)
def test_refusals(name: str, given, line: str) -> None:
    with pytest.raises(ModelError, match=line) as caught:
        build(name, **given)
    assert "\n" not in str(caught.value)


def test_missing_torchvision_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ModelError, match=r"needs torchvision, .*: pip install torchvision"):
        build("resnet18")


def test_a_broken_torchvision_is_one_line(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    line = "raise RuntimeError('operator torchvision::nms\\ndoes not exist')"
    (tmp_path / "torchvision" / "__init__.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    with pytest.raises(ModelError, match=r"nms does not exist \(is it the one made for this torch"):
        build("resnet18")
