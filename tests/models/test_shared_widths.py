"""Sub-networks that share one network's weights: against networks written by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import limbeck as lb
from limbeck.errors import ModelError
from limbeck.models import SharedWidths, build_model, parts_of
from limbeck.models.shared_widths import SharedLayer

SHAPE = (3, 8, 8)


def inputs(rows: int = 6, shape=SHAPE) -> torch.Tensor:
    return torch.rand(rows, *shape, generator=torch.Generator().manual_seed(0))


def build(name: str, shape=SHAPE, **arguments) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(name, num_classes=5, input_shape=shape, **arguments)
    for module in model.modules():  # batch norms that are no identity
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(value)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


def narrow_cnn(model: nn.Module, share: float, x: torch.Tensor) -> torch.Tensor:
    """The first channels of a small cnn, by hand, in eval mode."""
    for position, stage in enumerate(model.stages):
        x = F.max_pool2d(x, 2, ceil_mode=True) if position else x
        keep = math.ceil(share * stage.conv1.out_channels)
        norm = stage.norm1
        x = F.conv2d(x, stage.conv1.weight[:keep, : x.shape[1]], padding=1)
        mean, var = norm.running_mean[:keep], norm.running_var[:keep]
        x = (x - mean[:, None, None]) / torch.sqrt(var + norm.eps)[:, None, None]
        x = torch.relu(x * norm.weight[:keep, None, None] + norm.bias[:keep, None, None])
    x = x.mean(dim=(2, 3))
    return x @ model.head.weight[:, : x.shape[1]].T + model.head.bias


def narrow_mlp(model: nn.Module, share: float, x: torch.Tensor) -> torch.Tensor:
    x = x.flatten(1)
    for layer in model.hidden:
        keep = math.ceil(share * layer.linear.out_features)
        x = torch.relu(x @ layer.linear.weight[:keep, : x.shape[1]].T + layer.linear.bias[:keep])
    return x @ model.head.weight[:, : x.shape[1]].T + model.head.bias


@pytest.mark.parametrize(
    ("name", "arguments", "by_hand"),
    [
        ("cnn", {"channels": [5, 7]}, narrow_cnn),
        ("mlp", {"widths": [9, 6]}, narrow_mlp),
    ],
)
def test_a_part_is_the_first_channels_written_by_hand(name, arguments, by_hand):
    model, x = build(name, **arguments).double().eval(), inputs().double()
    shared = SharedWidths(model, [0.3, 0.5, 1.0], x).eval()
    for share, member, part in zip(shared.shares, shared.members, parts_of(shared), strict=True):
        wanted = by_hand(model, share, x)
        torch.testing.assert_close(member(x), wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(part(x), wanted, rtol=1e-12, atol=1e-12)
        assert not any(isinstance(module, SharedLayer) for module in part.modules())
    assert [m.shape for m in shared(x)] == [(6, 5)] * 3


@pytest.mark.parametrize("name", ["resnet8", "resnet8x4", "wrn16_1", "vgg8", "mobilenetv2"])
def test_the_families_have_parts(name):
    shape = (3, 32, 32)
    x = inputs(2, shape)
    shared = SharedWidths(build(name, shape), [0.25, 1.0], x)
    small, whole = parts_of(shared)
    assert small(x).shape == whole(x).shape == (2, 5)
    sizes = [sum(p.numel() for p in part.parameters()) for part in (small, whole)]
    assert sizes[0] < 0.12 * sizes[1]
    torch.testing.assert_close(small(x), shared.eval()(x)[0])


def nested(parts: list[nn.Module]) -> bool:
    """Whether the weights of each part, batch norms left out, are slices of the next one's."""
    for small, large in pairwise(parts):
        for name, layer in small.named_modules():
            if not isinstance(layer, nn.Conv2d | nn.Linear):
                continue
            for key, value in layer.named_parameters(recurse=False):
                other = large.get_submodule(name).get_parameter(key)
                if not torch.equal(other[tuple(slice(n) for n in value.shape)], value):
                    return False
    return True


def test_trained_together_they_still_share_and_each_learns(tmp_path):
    data = lb.load_data("digits", num_train=300)
    view = data.splits["train"]
    batch = view.fetch(torch.arange(len(view)))
    x, y = data.augment_eval(batch.inputs), batch.targets
    torch.manual_seed(0)
    model = build_model("cnn", num_classes=10, input_shape=(1, 8, 8), channels=[12, 16])
    shared = SharedWidths(model, [0.3, 0.6, 1.0], x[:2])
    before = [F.cross_entropy(part(x), y).item() for part in parts_of(shared)]
    run = lb.distill(
        None, shared, data, "plain", epochs=5, batch_size=32, output=tmp_path / "run", quiet=True
    )
    parts = parts_of(run.student)
    after = [F.cross_entropy(part(x), y).item() for part in parts]
    assert all(a < 0.9 * b for a, b in zip(after, before, strict=True)), (before, after)
    assert len(parts) == 3
    assert nested(parts)
    norms = [part.stages[1].norm1 for part in parts]
    assert not torch.equal(norms[0].running_mean, norms[2].running_mean[:5])  # of its own
    assert not torch.equal(parts[2].head.weight, model.head.weight)
    assert torch.equal(shared.members[-1].head.weight, model.head.weight)  # a copy was trained
    # their loss is the sum: the gradient that the whole gets is that of all
    torch.manual_seed(1)
    again = SharedWidths(model.double(), [0.5, 1.0], x[:2].double()).train()
    sum(F.cross_entropy(z, y[:8]) for z in again(x[:8].double())).backward()
    got = again.members[1].head.weight.grad.clone()
    alone = torch.zeros_like(got)
    for number in (0, 1):
        again.zero_grad()
        F.cross_entropy(again.members[number](x[:8].double()), y[:8]).backward()
        alone += again.members[1].head.weight.grad
    torch.testing.assert_close(got, alone)


def test_grouped_convolutions_keep_whole_groups():
    class Grouped(nn.Module):
        def __init__(self, groups: int) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 1)
            self.mix = nn.Conv2d(8, 8, 3, padding=1, groups=groups)
            self.head = nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.mix(self.stem(x))).mean(dim=(2, 3)))

    x = inputs(4)
    for groups in (8, 4):
        torch.manual_seed(0)
        model = Grouped(groups).eval()
        small, whole = parts_of(SharedWidths(model, [0.5, 1.0], x, head="head"))
        assert small.mix.groups == groups // 2
        hidden = torch.relu(model.mix(model.stem(x)))[:, :4].mean(dim=(2, 3))
        wanted = hidden @ model.head.weight[:, :4].T + model.head.bias
        torch.testing.assert_close(small(x), wanted)
        torch.testing.assert_close(whole(x), model(x))
    with pytest.raises(ModelError, match=r"3 of 8 channels read .* are no whole groups of the 4"):
        SharedWidths(Grouped(4), [0.3, 1.0], x, head="head")


@pytest.mark.parametrize("shares", [[], [0.5], [0.5, 0.5, 1.0], [0.0, 1.0], [1.0, 0.5]])
def test_shares_rise_to_the_whole(shares):
    with pytest.raises(ModelError, match=r"^shares: expected rising numbers above 0, the last 1"):
        SharedWidths(build("mlp"), shares, inputs())


def test_what_cannot_be_cut_is_refused_in_one_line():
    vit = build("vit", patch=4)
    with pytest.raises(ModelError, match=r"ViT has no sub-networks of fewer channels: .* at '"):
        SharedWidths(vit, [0.5, 1.0], inputs())
    assert len(parts_of(SharedWidths(vit, [1.0], inputs()))) == 1  # nothing is cut
    with pytest.raises(ModelError, match=r"GroupNorm at 'stages.0.norm1' is no convolution"):
        SharedWidths(build("cnn", norm="group"), [0.5, 1.0], inputs())

    class Joined(nn.Module):  # its second layer reads two maps side by side
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.mix, self.head = nn.Conv2d(6, 4, 1), nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            joined = torch.cat([self.left(x), self.right(x)], dim=1)
            return self.head(self.mix(joined).mean(dim=(2, 3)))

    with pytest.raises(ModelError, match=r"a narrower Joined cannot be cut out of it") as caught:
        SharedWidths(Joined(), [0.5, 1.0], inputs(), head="head")
    assert "\n" not in str(caught.value)
