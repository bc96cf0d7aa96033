"""Which map a classifier reads the mean of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from limbeck.models import build_model
from limbeck.taps import averaged_map, linear_head, tapping


def built(name: str, size: int, **arguments: object) -> nn.Module:
    torch.manual_seed(3)
    return build_model(name, num_classes=10, input_shape=(1, size, size), **arguments)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("resnet8", ".layer3"),
        ("wrn16_1", ".relu"),  # its last stage has yet to go through a norm
        ("vgg8", ".blocks.4"),
        ("cnn", ".stages.2"),
    ],
)
def test_the_maps_that_the_head_reads_the_mean_of(name: str, path: str) -> None:
    network = built(name, 32)
    assert linear_head(network, torch.rand(2, 1, 32, 32)).averaged == path
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_a_network_without_such_maps_has_none() -> None:
    vit = built("vit", 16, dim=8, depth=2, heads=2, patch=4)
    assert linear_head(vit, torch.rand(2, 1, 16, 16)).averaged is None


class Pooled(nn.Module):
    """Pools its maps by steps; its stage goes through a module that leaves it as it is."""

    def __init__(self, declares: bool) -> None:
        super().__init__()
        self.maps, self.same = nn.Conv2d(1, 6, 3, padding=1), nn.Dropout()
        self.smaller, self.pool = nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, 10)
        self.declares = declares

    def roles(self) -> dict[str, object]:
        return {"stages": ["maps"], "head": "head"} if self.declares else {"head": "head"}

    def forward(self, inputs: Tensor) -> Tensor:
        said: Tensor = self.head(self.pool(self.smaller(self.same(self.maps(inputs)))).flatten(1))
        return said


@pytest.mark.parametrize(("declares", "path"), [(True, ".maps"), (False, ".same")])
def test_of_maps_with_one_mean_the_largest_is_meant(declares: bool, path: str) -> None:
    network, inputs = Pooled(declares).eval(), torch.rand(2, 1, 8, 8)
    assert averaged_map(network, "head", inputs) == path
    with tapping(network, [path, "head:in"]) as store:
        network(inputs)
    torch.testing.assert_close(store[path].mean((2, 3)), store["head:in"])


def test_a_map_of_one_position_is_none() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 10)
    )
    assert averaged_map(network, "4", torch.rand(2, 1, 8, 8)) is None
