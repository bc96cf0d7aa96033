"""Real networks of timm, built small: weights from files, roles, and what a saved one needs."""

import logging
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from limbeck.errors import ModelError
from limbeck.models import build_model, load_model, model_spec, save_model
from limbeck.models.pretrained_config import expected_size, expected_statistics, pretrained_config
from limbeck.taps import head_of, roles_of, tapping

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
VIT = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2}
logging.getLogger("timm").setLevel(logging.ERROR)


def build(name: str, num_classes: int = 5, shape=(3, 32, 32), **arguments):
    return build_model(f"timm/{name}", num_classes=num_classes, input_shape=shape, **arguments)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    model = timm.create_model("resnet10t", num_classes=5)
    path = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), path)
    return path


def said(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IMAGES)


def own(path: Path) -> torch.Tensor:
    """What timm itself says with a file's weights."""
    from safetensors.torch import load_file

    state = load_file(path) if path.suffix == ".safetensors" else torch.load(path)["state_dict"]
    model = timm.create_model("resnet10t", num_classes=len(state["fc.weight"]))
    model.load_state_dict(state)
    return said(model)


def test_weights_from_safetensors_are_those_weights(saved: Path) -> None:
    assert torch.equal(said(build("resnet10t", weights=str(saved))), own(saved))


def test_weights_from_a_training_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = timm.create_model("resnet10t", num_classes=5)
    path = tmp_path / "last.pth.tar"
    wrapped = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, path)
    assert torch.equal(said(build("resnet10t", weights=str(path))), said(model))


def test_a_checkpoint_with_code_in_it_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": {}, "model_object": torch.nn.Linear(1, 1)}, path)
    with pytest.raises(ModelError, match="cannot be read as tensors alone") as caught:
        build("resnet10t", weights=str(path))
    assert "\n" not in str(caught.value)


def test_other_classes_get_a_new_head_and_the_same_body(saved: Path) -> None:
    model = build("resnet10t", num_classes=7, weights=str(saved))
    given = build("resnet10t", weights=str(saved))
    body = {n: v for n, v in model.state_dict().items() if not n.startswith("fc.")}
    assert all(torch.equal(v, given.state_dict()[n]) for n, v in body.items())
    assert model.fc.weight.shape[0] == 7
    assert pretrained_config(model)["num_classes"] == 5
    assert pretrained_config(given)["num_classes"] == 5
    assert "state_dict" not in pretrained_config(model)


def test_a_transformer_from_a_file_of_another_image_size(tmp_path: Path) -> None:
    torch.manual_seed(3)
    large = timm.create_model("vit_tiny_patch16_224", num_classes=5, **{**VIT, "img_size": 64})
    path = tmp_path / "vit.safetensors"
    save_file(large.state_dict(), path)
    small = build("vit_tiny_patch16_224", weights=str(path), **VIT)
    assert small.pos_embed.shape[1] == 17
    assert torch.equal(small.blocks[0].mlp.fc1.weight, large.blocks[0].mlp.fc1.weight)


def test_grey_images(saved: Path) -> None:
    model = build("resnet10t", shape=(1, 32, 32), weights=str(saved))
    assert model(IMAGES[:, :1]).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("resnet10t", {"weights": "nowhere.pth"}, "weights: there is no file nowhere.pth"),
        ("resnet10t", {"weights": "x.pth", "pretrained": True}, "either pretrained or weights"),
        ("resnet10t", {"checkpoint_path": "x.pth"}, "say checkpoint_path as weights"),
        ("resnet10t", {"in_chans": 3}, "in_chans comes from the data"),
        ("resnet10tt", {}, "did you mean 'timm/resnet10t'"),
    ],
)
def test_refusals(name: str, arguments, line: str) -> None:
    with pytest.raises(ModelError, match=line):
        build(name, **arguments)


def test_a_file_of_another_network_is_refused(saved: Path) -> None:
    with pytest.raises(ModelError, match="timm cannot build 'timm/resnet14t'") as caught:
        build("resnet14t", weights=str(saved))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_roles_are_timms() -> None:
    model = build("vit_tiny_patch16_224", **VIT)
    assert roles_of(model) == {
        "stages": ["blocks.0", "blocks.1"],
        "head": "head",
        "penultimate": "head:in",
    }
    with tapping(model.eval(), ["stages", "penultimate"]) as store:
        logits = model(IMAGES)
    assert torch.equal(head_of(model)(store["penultimate"]), logits)
    assert store["stages.1"].shape == (2, 17, 24)


def test_what_it_expects_of_inputs() -> None:
    vit = build("vit_tiny_patch16_224", **VIT)
    assert expected_statistics(vit).mean == (0.5, 0.5, 0.5)
    assert expected_size(vit) == (32, 32)  # as it was built, not as it was published
    resnet = build("resnet10t")
    assert expected_statistics(resnet).std == (0.229, 0.224, 0.225)
    assert expected_statistics(torch.nn.Linear(1, 1)) is None
    assert expected_size(torch.nn.Linear(1, 1)) is None


def test_a_saved_network_needs_no_other_weights(saved: Path, tmp_path: Path) -> None:
    """Opening a folder downloads nothing, and asks for no file that it was begun from."""
    model = build("resnet10t", weights=str(saved))
    spec = model_spec("timm/resnet10t", num_classes=5, input_shape=(3, 32, 32), weights=str(saved))
    assert spec["arguments"] == {}
    stats = {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 2.0]}
    folder = save_model(model, tmp_path / "kept", spec, {"normalisation": stats})
    saved.unlink()
    again = load_model(folder)
    assert torch.equal(said(again), said(model))
    assert expected_statistics(again).mean == (0.1, 0.2, 0.3)  # as it was trained
