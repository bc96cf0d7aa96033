"""Parts of networks whose prediction is a sum of what groups of features say.

Chowdhury, Liang, Tizghadam and Albanese, "Improving Knowledge Distillation with Teacher's
Explanation" (2023, arXiv 2310.02572).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import ModelError
from limbeck.functional import naive_bayes, superfeature_explanations

EXPLANATIONS = "head.explanations"
"""Path of the module through which the log-probabilities ``[batch, groups, classes]`` pass."""
HIDDEN = "hidden"
"""Path of the module through which the branches' last features pass, side by side in order."""


class AdditiveHead(nn.Module):
    """A classifier for each branch, and their normalised product.

    ``forward`` takes the branches' vectors side by side, ``[batch, groups * features]``, and
    returns logits ``[batch, classes]``: ``Σ_i log e_i - (groups - 1) log prior``.

    Args:
        features: entries of a branch's vector.
        groups: branches.
        num_classes: classes.
    """

    prior: Tensor

    def __init__(self, features: int, groups: int, num_classes: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(features, num_classes) for _ in range(groups))
        self.explanations = nn.Identity()
        self.register_buffer("prior", torch.full((num_classes,), 1 / num_classes))

    def forward(self, vectors: Tensor) -> Tensor:
        """Return logits ``[batch, classes]``."""
        parts = vectors.chunk(len(self.branches), dim=1)
        said = [branch(part) for branch, part in zip(self.branches, parts, strict=True)]
        explanations = self.explanations(superfeature_explanations(torch.stack(said, dim=1)))
        return naive_bayes(explanations, self.prior)


class GroupedLinear(nn.Module):
    """A linear layer for each group of input features: as many weights for any grouping.

    Feature ``j`` reaches the branch ``group[j]`` alone, by the column ``j`` of one matrix. So
    groups are values, kept with the weights, and not part of the structure.

    Args:
        features: input features.
        width: units of a branch.
        groups: branches.

    Inputs ``[batch, features]``, outputs ``[batch, groups, width]``. At first a branch reads
    neighbouring features, as many as the others.
    """

    group: Tensor

    def __init__(self, features: int, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.register_buffer("group", torch.arange(features) * groups // features)
        self.weight = nn.Parameter(torch.empty(width, features).uniform_(-1, 1))
        self.bias = nn.Parameter(torch.empty(groups, width).uniform_(-1, 1))
        self._scale(1 / self._roots())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[batch, groups, width]``."""
        own = self.members().to(inputs.dtype)
        return F.linear(inputs.unsqueeze(1) * own, self.weight) + self.bias

    def members(self) -> Tensor:
        """Return which features each branch reads, bool ``[groups, features]``."""
        return self.group == torch.arange(self.groups, device=self.group.device).unsqueeze(1)

    def regroup(self, group: Tensor) -> None:
        """Put each feature into a group, int64 ``[features]``.

        Each branch keeps the scale of a linear layer that starts anew on so many features.

        Raises:
            ModelError: not one group from 0 up for each feature.
        """
        if group.shape != self.group.shape or group.dtype != torch.int64:
            raise ModelError(
                f"groups: expected int64 [{len(self.group)}], one for each feature, got "
                f"{str(group.dtype).removeprefix('torch.')} {list(group.shape)}"
            )
        if int(group.min()) < 0 or int(group.max()) >= self.groups:
            wrong = int(group.min()) if int(group.min()) < 0 else int(group.max())
            raise ModelError(f"groups: expected 0 to {self.groups - 1}, got {wrong}")
        if torch.equal(group, self.group):
            return  # not a bit is to change
        self._scale(self._roots())
        self.group.copy_(group)
        self._scale(1 / self._roots())

    def _roots(self) -> Tensor:
        """Return the square root of each branch's number of features, at least 1."""
        sizes = self.members().sum(dim=1).clamp(min=1)
        return sizes.to(self.weight.dtype).sqrt()

    @torch.no_grad()
    def _scale(self, factors: Tensor) -> None:
        self.weight.mul_(factors[self.group])
        self.bias.mul_(factors.unsqueeze(1))


def explains(model: nn.Module) -> bool:
    """Whether a network's prediction is a sum of explanations that can be read."""
    return isinstance(getattr(model, "head", None), AdditiveHead)


def head_that_explains(model: nn.Module) -> AdditiveHead:
    """Return the head of an explaining network; raises ModelError for any other."""
    head = getattr(model, "head", None)
    if isinstance(head, AdditiveHead):
        return head
    raise ModelError(
        f"{type(model).__name__} does not say what groups of features contribute; use "
        "explaining_mlp or explaining_resnet"
    )


def grouping_of(model: nn.Module) -> GroupedLinear | None:
    """Return the layer that keeps which input features are whose; None where there is none."""
    layer = getattr(model, "grouped", None)
    return layer if isinstance(layer, GroupedLinear) else None
