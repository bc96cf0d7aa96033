"""Roles of networks that do not declare them."""

import pytest
import torch
from torch import nn

from limbeck.errors import TapError
from limbeck.models import build_model
from limbeck.taps import head_of, infer_roles, roles_of, tapping


def plain_cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def test_the_last_linear_layer_is_the_head():
    model = plain_cnn()
    assert roles_of(model) == {"head": "8", "penultimate": "8:in"}
    assert head_of(model) is model[8]
    with tapping(model, "penultimate") as store:
        logits = model(torch.randn(2, 1, 8, 8))
    assert torch.equal(model[8](store["penultimate"]), logits)


def test_inferred_stages_are_the_last_modules_of_each_resolution():
    model = plain_cnn().train()
    before = model[1].running_mean.clone()
    roles = infer_roles(model, torch.randn(2, 1, 8, 8))
    assert roles == {"stages": ["2", "5"], "head": "8", "penultimate": "8:in"}
    assert model.training
    assert torch.equal(model[1].running_mean, before)
    assert not [m for m in model.modules() if m._forward_hooks]


def test_inferred_stages_prefer_the_outermost_module():
    own = build_model("resnet14", num_classes=4, input_shape=(3, 16, 16))
    declared = own.roles()["stages"]
    own.roles = None
    assert infer_roles(own, torch.randn(1, 3, 16, 16))["stages"] == declared


class Encoder(nn.Module):
    """Transformer blocks in a list, the classifier declared before them."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(8, 3)
        self.embed = nn.Embedding(20, 8)
        layer = {"d_model": 8, "nhead": 2, "dim_feedforward": 16, "batch_first": True}
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(**layer) for _ in range(3))

    def forward(self, ids, mask=None):
        hidden = self.embed(ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.classifier(hidden.mean(dim=1))


def test_blocks_of_a_transformer_are_its_stages():
    model = Encoder()
    assert roles_of(model)["head"] != "classifier"  # by order of declaration alone
    roles = infer_roles(model, {"ids": torch.zeros(2, 5, dtype=torch.long)})
    assert roles["stages"] == ["layers.0", "layers.1", "layers.2"]
    assert roles["head"] == "classifier"  # by what really ran last
    assert roles["penultimate"] == "classifier:in"


def test_declared_roles_win():
    model = plain_cnn()
    model.roles = {"stages": ["1"], "head": "8"}
    assert infer_roles(model, torch.randn(1, 1, 8, 8)) == {
        "stages": ["1"],
        "head": "8",
        "penultimate": "8:in",
    }


class LikeTimm(nn.Module):
    """The two things of timm's that roles are read from."""

    def __init__(self):
        super().__init__()
        self.feature_info = [
            {"num_chs": 4, "reduction": 2, "module": "blocks.0"},
            {"num_chs": 4, "reduction": 4, "module": "blocks.1"},
            {"num_chs": 4, "reduction": 8, "module": "renamed"},
        ]
        self.blocks = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.Conv2d(4, 4, 3, 2))
        self.fc = nn.Linear(4, 2)
        self.auxiliary = nn.Linear(4, 2)

    def get_classifier(self):
        return self.fc

    def forward(self, inputs):
        return self.fc(self.blocks(inputs).mean(dim=(2, 3)))


def test_roles_from_timm():
    roles = roles_of(LikeTimm())
    assert roles == {"stages": ["blocks.0", "blocks.1"], "head": "fc", "penultimate": "fc:in"}


def test_no_stages_at_all():
    with pytest.raises(TapError, match="no stages found in Sequential"):
        infer_roles(nn.Sequential(nn.Linear(3, 2)), torch.randn(1, 3))
    with pytest.raises(TapError, match="has no linear head"):
        head_of(nn.Sequential(nn.ReLU()))
