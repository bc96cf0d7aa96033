"""How λ changes from epoch to epoch, in both forms of variance reduction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from limbeck.methods.base import Method
from limbeck.methods.card import Paper

SAFARYAN = Paper(
    authors="Safaryan, Peste, Alistarh",
    year=2023,
    title="Knowledge Distillation Performs Partial Variance Reduction",
    venue="NeurIPS 2023",
    arxiv="2305.17581",
)


@dataclass(frozen=True, kw_only=True)
class LambdaSchedule(Method):
    """A method whose λ grows or decays by a factor an epoch.

    Args:
        growth: factor on λ after each epoch, above 0 (1: λ stays; the authors' code has 0.9 to
            decay and 1.047 to grow).
        limit: λ does not grow beyond it, above 0 (1; the authors' code has 0.9 or 1). A λ that
            starts above it stays as it is, or decays.
    """

    growth: float = 1.0
    limit: float = 1.0

    renamed: ClassVar[Mapping[str, str]] = {
        "schedule": "growth",
        "factor": "growth",
        "most": "limit",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.growth > 0, "growth", "a factor above 0")
        self.require(self.limit > 0, "limit", "a number above 0")

    @property
    def first_lam(self) -> float:
        """λ of the first epoch."""
        raise NotImplementedError

    def lam_at(self, epoch: int) -> float:
        """Return λ in an epoch, counted from 0."""
        grown = self.first_lam * self.growth**epoch
        return min(grown, max(self.limit, self.first_lam))
