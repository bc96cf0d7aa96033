"""What the networks of the zoo compute, written out from their definitions or asked of timm."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limbeck.models import build_model, count_parameters
from limbeck.models.shufflenetv1 import ChannelShuffle


class Weights:
    """Operations by the name of their weights in a state dict; norms use the running statistics."""

    def __init__(self, model):
        self.state = model.state_dict()

    def conv(self, x, name, stride=1, groups=1):
        weight = self.state[f"{name}.weight"]
        outputs, inputs = weight.shape[0] // groups, x.shape[1] // groups
        return torch.cat(  # group by group, so that grouping is spelled out
            [
                F.conv2d(
                    x[:, g * inputs : (g + 1) * inputs],
                    weight[g * outputs : (g + 1) * outputs],
                    stride=stride,
                    padding=weight.shape[-1] // 2,
                )
                for g in range(groups)
            ],
            dim=1,
        )

    def norm(self, x, name):
        mean, var, scale, shift = (
            self.state[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def block(self, x, number, prefix="", stride=1, groups=1):
        """Convolution and norm of one number."""
        x = self.conv(x, f"{prefix}conv{number}", stride, groups)
        return self.norm(x, f"{prefix}bn{number}")

    def head(self, x):
        return x.mean(dim=(2, 3)) @ self.state["linear.weight"].T + self.state["linear.bias"]


def relu(x):
    return x.clamp(min=0)


def wrn16_1(w, x):
    x = w.conv(x, "conv1")
    for stage in (1, 2, 3):
        for block in (0, 1):
            p, stride = f"layer{stage}.{block}.", 2 if stage > 1 and block == 0 else 1
            a = relu(w.norm(x, f"{p}bn1"))
            y = relu(w.norm(w.conv(a, f"{p}conv1", stride), f"{p}bn2"))
            moved = f"{p}shortcut.weight" in w.state
            x = w.conv(y, f"{p}conv2") + (w.conv(a, f"{p}shortcut", stride) if moved else x)
    return w.head(relu(w.norm(x, "bn1")))


def vgg11(w, x):
    for block, layers in enumerate((1, 1, 2, 2, 2)):
        if block in (1, 2, 3):  # the largest of each 2x2 square
            x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5))
        for layer in range(1, layers + 1):
            p = f"blocks.{block}."
            bias = w.state[f"{p}conv{layer}.bias"][:, None, None]
            x = relu(w.norm(w.conv(x, f"{p}conv{layer}") + bias, f"{p}bn{layer}"))
    return w.head(x)


def mobilenetv2_half(w, x):
    x = relu(w.norm(w.conv(x, "stem.conv", 2), "stem.bn"))
    counts, strides = (1, 2, 3, 4, 3, 3, 1), (1, 1, 2, 2, 1, 2, 1)
    for stage, (count, first) in enumerate(zip(counts, strides, strict=True)):
        for block in range(count):
            p, stride = f"blocks.{stage}.{block}.", first if block == 0 else 1
            y = relu(w.block(x, 1, p))
            y = relu(w.block(y, 2, p, stride, groups=y.shape[1]))
            y = w.block(y, 3, p)
            x = x + y if stride == 1 and x.shape == y.shape else y
    return w.head(relu(w.norm(w.conv(x, "last.conv"), "last.bn")))


def interleave(x, groups):
    size = x.shape[1] // groups
    order = [group * size + place for place in range(size) for group in range(groups)]
    return x[:, order]


def shufflenetv1(w, x):
    x = relu(w.block(x, 1))
    for stage, count in ((1, 4), (2, 8), (3, 4)):
        for unit in range(count):
            p, stride = f"layer{stage}.{unit}.", 2 if unit == 0 else 1
            groups = 1 if stage == 1 and unit == 0 else 3
            y = interleave(relu(w.block(x, 1, p, groups=groups)), groups)
            y = relu(w.block(y, 2, p, stride, groups=y.shape[1]))
            y = w.block(y, 3, p, groups=3)
            if unit == 0:  # the mean of 3x3 squares, zeros around the image counted
                padded = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 2).unfold(3, 3, 2)
                x = relu(torch.cat([y, padded.mean(dim=(4, 5))], dim=1))
            else:
                x = relu(y + x)
    return w.head(x)


def shufflenetv2(w, x):
    def branch(x, p, stride):
        y = relu(w.block(x, 1, p))
        y = w.block(y, 2, p, stride, groups=y.shape[1])
        return relu(w.block(y, 3, p))

    x = relu(w.block(x, 1))
    for stage, count in ((1, 4), (2, 8), (3, 4)):
        for unit in range(count):
            p = f"layer{stage}.{unit}."
            if unit == 0:
                short = w.block(x, 1, p, 2, groups=x.shape[1])
                short, worked = relu(w.block(short, 2, p)), branch(x, f"{p}branch.", 2)
            else:
                half = x.shape[1] // 2
                short, worked = x[:, :half], branch(x[:, half:], f"{p}branch.", 1)
            x = interleave(torch.cat([short, worked], dim=1), 2)
    return w.head(relu(w.block(x, 2)))


def resnet50(w, x):
    x = relu(w.block(x, 1))
    for stage, count in ((1, 3), (2, 4), (3, 6), (4, 3)):
        for block in range(count):
            p, stride = f"layer{stage}.{block}.", 2 if stage > 1 and block == 0 else 1
            y = relu(w.block(relu(w.block(x, 1, p)), 2, p, stride))
            if block == 0:
                x = w.norm(w.conv(x, f"{p}shortcut.0", stride), f"{p}shortcut.1")
            x = relu(w.block(y, 3, p) + x)
    return w.head(x)


def resnet18(w, x):
    x = relu(w.block(x, 1))
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            p, stride = f"layer{stage}.{block}.", 2 if stage > 1 and block == 0 else 1
            y = relu(w.block(x, 1, p, stride))
            if stride == 2:
                x = w.norm(w.conv(x, f"{p}shortcut.0", 2), f"{p}shortcut.1")
            x = relu(w.block(y, 2, p) + x)
    return w.head(x)


WRITTEN = [
    wrn16_1,
    vgg11,
    mobilenetv2_half,
    shufflenetv1,
    shufflenetv2,
    resnet18,
    resnet50,
]


def unsettle(model):
    """Move norms off their start, so that every number of theirs matters."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                module.weight.uniform_(0.7, 1.3)
                module.bias.normal_(0, 0.2)


@pytest.mark.parametrize("written", WRITTEN, ids=lambda written: written.__name__)
@pytest.mark.parametrize("size", [16, 28])
def test_forward_is_the_definition_written_out(written, size):
    given = {"num_classes": 5, "input_shape": (3, size, size)}
    model = build_model(written.__name__, **given).double().eval()
    unsettle(model)
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        found, expected = model(images), written(Weights(model), images)
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_a_shuffle_deals_channels_out_in_turn():
    channels = torch.arange(6.0).reshape(1, 6, 1, 1).expand(2, 6, 3, 2)
    assert ChannelShuffle(3)(channels)[1, :, 2, 1].tolist() == [0, 2, 4, 1, 3, 5]
    back = ChannelShuffle(2)(ChannelShuffle(3)(channels))
    assert torch.equal(back, channels)


VIT = {
    "class_token": "cls_token",
    "positions": "pos_embed",
    "patches.": "patch_embed.proj.",
    "attention.projection.": "attn.proj.",
    "attention.": "attn.",
    "mlp.linear": "mlp.fc",
}
MIXER = {
    "patches.": "stem.proj.",
    "tokens.linear": "mlp_tokens.fc",
    "channels.linear": "mlp_channels.fc",
}


@pytest.mark.parametrize(
    ("name", "theirs", "renamed"),
    [
        ("vit_tiny", "vit_tiny_patch16_224", VIT),
        ("vit_small", "vit_small_patch16_224", VIT),
        ("mixer_small", "mixer_s16_224", MIXER),
    ],
)
def test_token_networks_are_those_of_timm(name, theirs, renamed):
    import timm

    reference = timm.create_model(theirs, num_classes=6, img_size=64)
    ours = build_model(name, num_classes=6, input_shape=(3, 64, 64), patch=16)
    assert count_parameters(ours) == count_parameters(reference)
    reference, ours = reference.double().eval(), ours.double().eval()
    unsettle(ours)
    for module in ours.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6  # timm's
    state = {}
    for key, value in ours.state_dict().items():
        mine = next((part for part in renamed if part in key), "")
        state[key.replace(mine, renamed[mine]) if mine else key] = value
    reference.load_state_dict(state)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), reference(images), rtol=1e-9, atol=1e-9)
