"""Networks from elsewhere: what is imported, and what never is."""

import importlib
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.errors import ModelError
from limbeck.models import build_model, external

CODE = """
from os import system
from torch import nn

ran = True

def build(num_classes, width=3):
    return nn.Linear(width, num_classes)

def anything(**arguments):
    layer = nn.Linear(2, 2)
    layer.arguments = arguments
    return layer

def number():
    return 4

class Box:
    @classmethod
    def make(cls, input_shape):
        return nn.Linear(input_shape[0], 1)

value = 5
"""


@pytest.fixture
def local(tmp_path: Path, monkeypatch):
    """A module beside the recipe, importable but not installed."""
    (tmp_path / "localnets.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "localnets"
    sys.modules.pop("localnets", None)


@pytest.fixture
def installed(local, tmp_path: Path, monkeypatch):
    """The same module, with its folder passing for site-packages."""
    folders = [*external._installed_folders(), tmp_path.resolve()]
    monkeypatch.setattr(external, "_installed_folders", lambda: folders)
    return local


def test_code_that_is_not_installed_is_refused_before_it_runs(local):
    with pytest.raises(ModelError, match=r"localnets is not an installed .* --allow-code"):
        build_model(f"py:{local}:build", num_classes=2, input_shape=(3,))
    assert local not in sys.modules


def test_allow_code_runs_it(local):
    model = build_model(
        f"py:{local}:build", num_classes=2, input_shape=(3,), width=5, allow_code=True
    )
    assert model.weight.shape == (2, 5)


def test_allow_code_finds_a_file_in_the_working_folder(tmp_path: Path, monkeypatch):
    (tmp_path / "herenets.py").write_text(CODE)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])  # as for a console script
    monkeypatch.chdir(tmp_path)
    asked = {"num_classes": 2, "input_shape": (3,)}
    with pytest.raises(ModelError, match=r"herenets is not an installed .* --allow-code"):
        build_model("py:herenets:build", **asked)
    assert "herenets" not in sys.modules
    assert build_model("py:herenets:build", **asked, allow_code=True).weight.shape == (2, 3)
    with pytest.raises(ModelError, match="nor in the working folder"):
        build_model("py:no_such_nets:build", **asked, allow_code=True)
    sys.modules.pop("herenets")


def test_installed_functions_are_called_with_what_they_take(installed):
    model = build_model(f"py:{installed}:build", num_classes=2, input_shape=(3,))
    assert model.weight.shape == (2, 3)
    model = build_model(f"py:{installed}:anything", num_classes=2, input_shape=(3,), deep=1)
    assert model.arguments == {"num_classes": 2, "input_shape": (3,), "deep": 1}
    model = build_model(f"py:{installed}:Box.make", num_classes=2, input_shape=(6,))
    assert model.weight.shape == (1, 6)


def test_a_class_of_an_installed_library():
    model = build_model("py:torch.nn:Linear", in_features=3, out_features=2)
    assert isinstance(model, nn.Linear)
    model = build_model("py:limbeck.models.mlp:MLP", num_classes=3, input_shape=(4,), widths=[2])
    assert model(torch.zeros(1, 4)).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("py:os:system", "not an installed package of networks"),
        ("py:subprocess:call", "not an installed package of networks"),
        ("py:builtins:exec", "not an installed package of networks"),
        ("py:__main__:main", "not an installed package of networks"),
        ("py:localnets:system", "not an installed package of networks"),
        ("py:localnets:built", "unknown function 'built': did you mean 'build'"),
        ("py:localnets:Box.build", "unknown function 'Box.build'"),
        ("py:localnets:value", "value is a int, not a function"),
        ("py:localnets:number", "gave a int, expected an nn.Module"),
        ("py:localnets", "is not of the form 'py:module:function'"),
        ("py::build", "is not of the form"),
        ("py:localnets:build:x", "is not of the form"),
        ("py:no_such_module_here:build", "there is no installed module 'no_such_module_here'"),
        ("py:torch.no_such_part:build", "there is no installed module 'torch.no_such_part'"),
        ("py:localnets:build", "missing 1 required positional argument"),
    ],
)
def test_refusals(installed, name, message):
    with pytest.raises(ModelError, match=message) as caught:
        build_model(name)
    assert "\n" not in str(caught.value)


def test_unknown_argument_of_a_function(installed):
    with pytest.raises(ModelError, match="'widht': did you mean 'width'"):
        build_model(f"py:{installed}:build", num_classes=2, widht=4)


def test_a_module_that_fails_while_importing(installed, tmp_path: Path):
    (tmp_path / "brokennets.py").write_text("raise RuntimeError('out of order')")
    with pytest.raises(ModelError, match="importing brokennets failed: out of order"):
        build_model("py:brokennets:build")
    (tmp_path / "hungrynets.py").write_text("import no_such_thing")
    with pytest.raises(ModelError, match="importing hungrynets failed: No module named"):
        build_model("py:hungrynets:build")


def fake_timm():
    module = types.ModuleType("timm")
    module.list_models = lambda: ["resnet18", "vit_tiny"]

    def create_model(name, *, num_classes, in_chans, **arguments):
        if arguments:
            raise TypeError(f"__init__() got an unexpected keyword\nargument {arguments}")
        return nn.Conv2d(in_chans, num_classes, 1)

    module.create_model = create_model
    return module


def test_timm_gets_classes_and_channels(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", fake_timm())
    model = build_model("timm/resnet18.a1_in1k", num_classes=5, input_shape=(2, 8, 8))
    assert model.weight.shape == (5, 2, 1, 1)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("timm/resnet19", {}, "unknown model 'timm/resnet19': did you mean 'timm/resnet18'"),
        ("timm/resnet18", {"depth": 3}, "timm cannot build 'timm/resnet18' with .*unexpected"),
        ("timm/resnet18", {"input_shape": (4,)}, "reads images"),
        ("timm/resnet18", {"num_classes": None}, "needs num_classes"),
    ],
)
def test_timm_refusals(monkeypatch, name, given, message):
    monkeypatch.setitem(sys.modules, "timm", fake_timm())
    with pytest.raises(ModelError, match=message) as caught:
        build_model(name, **{"num_classes": 5, "input_shape": (3, 8, 8), **given})
    assert "\n" not in str(caught.value)


def test_missing_timm_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match=r"needs timm, .*: pip install timm torchvision"):
        build_model("timm/resnet18", num_classes=5, input_shape=(3, 8, 8))


def test_a_torchvision_for_another_torch(monkeypatch, tmp_path: Path):
    (tmp_path / "timm").mkdir()
    line = "raise RuntimeError('operator torchvision::nms\\ndoes not exist')"
    (tmp_path / "timm" / "__init__.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(ModelError, match=r"nms does not exist \(is the installed torchvision"):
        build_model("timm/resnet18", num_classes=5, input_shape=(3, 8, 8))


def test_missing_torchvision_is_named(monkeypatch, tmp_path: Path):
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text("import torchvision.transforms")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(ModelError, match="needs torchvision, which is not installed"):
        build_model("timm/resnet18", num_classes=5, input_shape=(3, 8, 8))
