"""A residual network whose last stage is there once for each group of channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError, unknown
from limbeck.models.additive import HIDDEN, AdditiveHead
from limbeck.models.cnn import check_image
from limbeck.models.cost import count_parameters
from limbeck.models.mlp import check_sizes
from limbeck.models.registry import register_model
from limbeck.models.resnet import SHORTCUTS, CifarResNet, residual_stage
from limbeck.models.start import start_convolutions


@register_model("explaining_resnet")
class ExplainingResNet(nn.Module):
    """The first two stages of a ``resnet``, and a last stage for each group of channels.

    A 1x1 convolution, norm and ReLU make ``groups * width`` channels of the second stage's; each
    branch reads ``width`` of them and gives a distribution, and the answers multiply as in
    ``explaining_mlp``. Which channels a branch reads is learned, with the rest.

    Args:
        num_classes: logits per sample.
        input_shape: ``(channels, height, width)``.
        depth: 6n+2 with n at least 1.
        groups: branches.
        widths: channels of the stem and of the three stages of the plain network; the last counts
            for its parameters alone.
        width: channels of a branch; None: such that the network has about as many parameters as
            the plain one, and no more.
        shortcut: "pad" or "conv", as of ``resnet``.

    Inputs ``[batch, channels, height, width]``, output logits ``[batch, num_classes]``.
    """

    paper: ClassVar[str] = "Chowdhury et al. 2023, arXiv 2310.02572"

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int],
        *,
        depth: int = 20,
        groups: int = 4,
        widths: Sequence[int] = (16, 16, 32, 64),
        width: int | None = None,
        shortcut: str = "pad",
    ) -> None:
        super().__init__()
        in_channels, _, _ = check_image("explaining_resnet", input_shape)
        if shortcut not in SHORTCUTS:
            raise ModelError(unknown("shortcut", shortcut, SHORTCUTS))
        (groups,) = check_sizes("groups", [groups])
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            plain = CifarResNet(  # says what is wrong with depth and widths, too
                num_classes, input_shape, depth=depth, widths=widths, shortcut=shortcut
            )
        if width is None:
            width = _matched_width(
                count_parameters(plain),
                2 * groups * num_classes,
                lambda size: ExplainingResNet(
                    num_classes,
                    input_shape,
                    depth=depth,
                    groups=groups,
                    widths=widths,
                    width=size,
                    shortcut=shortcut,
                ),
            )
        (width,) = check_sizes("width", [width])
        stem, first, second, _ = widths
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        self.layer1 = residual_stage(stem, first, blocks, 1, shortcut)
        self.layer2 = residual_stage(first, second, blocks, 2, shortcut)
        self.superfeatures = nn.Sequential(
            nn.Conv2d(second, groups * width, 1, bias=False),
            nn.BatchNorm2d(groups * width),
            nn.ReLU(),
        )
        self.branches = nn.ModuleList(
            residual_stage(width, width, blocks, 2, shortcut) for _ in range(groups)
        )
        self.hidden = nn.Identity()
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = AdditiveHead(width, groups, num_classes)
        start_convolutions(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, num_classes]``."""
        shared = self.layer2(self.layer1(self.relu(self.bn1(self.conv1(inputs)))))
        parts = self.superfeatures(shared).chunk(len(self.branches), dim=1)
        maps = [branch(part) for branch, part in zip(self.branches, parts, strict=True)]
        logits: Tensor = self.head(self.pool(self.hidden(torch.cat(maps, dim=1))))
        return logits

    def roles(self) -> dict[str, list[str] | str]:
        """Where the features are; the last stage is the branches' maps, side by side."""
        return {"stages": ["layer1", "layer2", HIDDEN], "penultimate": "pool", "head": "head"}


def _matched_width(budget: int, least: int, make: Callable[[int], nn.Module]) -> int:
    """Return the largest width with which the branched network has at most ``budget`` parameters.

    Args:
        budget: parameters of the plain network.
        least: what the classifiers of one-channel branches have, before any is built.
        make: builds the branched network of a width.

    Raises:
        ModelError: one channel a branch is too many.
    """

    def fits(width: int) -> bool:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return count_parameters(make(width)) <= budget

    if least > budget or not fits(1):
        raise ModelError(
            f"groups: the plain network has {budget:,} parameters, too few for so many branches; "
            "use fewer groups"
        )
    low, high = 1, 2
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
