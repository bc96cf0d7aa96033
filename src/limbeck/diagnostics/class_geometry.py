"""How classes lie to each other in a last layer, beside a hierarchy that is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.errors import ShapeError, TapError
from limbeck.taps import head_of


@dataclass(frozen=True, eq=False)
class ClassGeometry:
    """Which classes a network's last layer holds alike (Tang et al. 2020, 2002.03532).

    Attributes:
        cosines: of the rows of its weights, float64 ``[classes, classes]``.
        superclasses: named hierarchies, int64 ``[classes]`` each: the superclass of each class.
    """

    cosines: Tensor
    superclasses: Mapping[str, Tensor]

    def within(self, hierarchy: str) -> float:
        """Return the mean cosine of two classes of one superclass; NaN where there are none."""
        same = self._same(hierarchy)
        return self._mean(same & ~torch.eye(len(same), dtype=torch.bool))

    def across(self, hierarchy: str) -> float:
        """Return the mean cosine of two classes of two superclasses; NaN where there are none."""
        return self._mean(~self._same(hierarchy))

    def _same(self, hierarchy: str) -> Tensor:
        groups = self.superclasses[hierarchy]
        return groups[:, None] == groups[None, :]

    def _mean(self, pairs: Tensor) -> float:
        return float(self.cosines[pairs].mean()) if bool(pairs.any()) else math.nan


def class_geometry(network: nn.Module, superclasses: Mapping[str, Tensor]) -> ClassGeometry:
    """Return how the classes lie to each other in a network's last layer.

    Args:
        network: with a linear head, or a 1x1 convolution for one.
        superclasses: named hierarchies, the superclass of each class ``[classes]``.

    Raises:
        TapError: the network has no head, or one without a matrix of weights.
        ShapeError: a hierarchy of another number of classes.
    """
    weight = getattr(head_of(network), "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2 or weight[0].numel() != weight.shape[1]:
        raise TapError(f"the head of {type(network).__name__} has no matrix of weights")
    for name, groups in superclasses.items():
        if len(groups) != len(weight):
            raise ShapeError(
                f"superclasses.{name}: {len(groups)} classes, the network has {len(weight)}"
            )
    named = {name: groups.detach().cpu().long() for name, groups in superclasses.items()}
    return ClassGeometry(functional.class_cosines(weight.flatten(1).cpu()), named)
