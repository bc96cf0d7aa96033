"""A perceptron for each group of features, whose answers multiply."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.models.additive import HIDDEN, AdditiveHead, GroupedLinear
from limbeck.models.mlp import check_sizes, make_activation
from limbeck.models.registry import register_model


@register_model("explaining_mlp")
class ExplainingMLP(nn.Module):
    """Perceptrons that each read one group of features; the product of their answers.

    Branch i gives the distribution ``e_i = softmax(MLP_i(x_Si))``, and the logits are
    ``Σ_i log e_i - (groups - 1) log prior``. Which features are whose is kept with the weights: at
    first neighbours, in equal parts; the method ``superfeatures`` finds groups that act together
    and the prior, ``ked`` takes them over from the teacher.

    Args:
        num_classes: logits per sample.
        input_shape: shape of one sample; flattened, each entry is a feature.
        groups: branches, at most one a feature.
        like: hidden layers of a plain ``mlp``: each branch has as many, and such a width that all
            together have about as many parameters as that network.
        width: units of each hidden layer of a branch instead; None: by ``like``.
        activation: "relu", "gelu", "silu", "tanh" or "sigmoid".

    Inputs ``[batch, *input_shape]``, output logits ``[batch, num_classes]``.
    """

    paper: ClassVar[str] = "Chowdhury et al. 2023, arXiv 2310.02572"

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int],
        *,
        groups: int = 4,
        like: Sequence[int] = (256, 256),
        width: int | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        features = math.prod(input_shape)
        like = check_sizes("like", like)
        (groups,) = check_sizes("groups", [groups])
        if groups > features:
            raise ModelError(f"groups: expected at most {features}, one a feature, got {groups}")
        if width is None:
            width = matched_width(features, num_classes, like, groups)
        (width,) = check_sizes("width", [width])
        self.flatten = nn.Flatten()
        self.grouped = GroupedLinear(features, width, groups)
        self.activation = make_activation(activation)
        self.branches = nn.ModuleList(
            _deeper(width, len(like) - 1, activation) for _ in range(groups)
        )
        self.hidden = nn.Flatten()
        self.head = AdditiveHead(width, groups, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, num_classes]``."""
        parts = self.activation(self.grouped(self.flatten(inputs))).unbind(dim=1)
        vectors = [branch(part) for branch, part in zip(self.branches, parts, strict=True)]
        logits: Tensor = self.head(self.hidden(torch.cat(vectors, dim=1)))
        return logits

    def roles(self) -> dict[str, list[str] | str]:
        """Where the features are: the branches' vectors, side by side."""
        return {"stages": [HIDDEN], "penultimate": HIDDEN, "head": "head"}


def matched_width(features: int, num_classes: int, like: Sequence[int], groups: int) -> int:
    """Return the width at which so many branches have the parameters of a plain network.

    The largest root h, rounded down, of ``M(n-1) h² + (M(n + C) + d) h + M C - P = 0``, for M
    groups, n hidden layers, d features, C classes and the P parameters of an ``mlp`` with the
    hidden layers ``like``.

    Raises:
        ModelError: there are too few parameters for one unit a branch.
    """
    sizes = [features, *like, num_classes]
    budget = sum((a + 1) * b for a, b in pairwise(sizes))
    square = groups * (len(like) - 1)
    linear = groups * (len(like) + num_classes) + features
    rest = budget - groups * num_classes
    # The root's floor in whole numbers: of two forms, the one that a zero square term allows.
    width = rest // linear
    if square:
        width = (math.isqrt(max(linear**2 + 4 * square * rest, 0)) - linear) // (2 * square)
    if width < 1:
        raise ModelError(
            f"groups: an mlp of widths {list(like)} has {budget:,} parameters, too few for "
            f"{groups} branches; use fewer groups, or wider layers in like"
        )
    return width


def _deeper(width: int, layers: int, activation: str) -> nn.Sequential:
    """Return the further hidden layers of a branch; none passes on what it is given."""
    return nn.Sequential(
        *(
            nn.Sequential(
                OrderedDict(linear=nn.Linear(width, width), activation=make_activation(activation))
            )
            for _ in range(layers)
        )
    )
