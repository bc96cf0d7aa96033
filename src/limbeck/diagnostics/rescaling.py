"""How a teacher rescales gradients, sample by sample: the probe of Tang et al. (2002.03532)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Rescaling:
    """What a teacher does to the gradient at each sample's label, relative to cross-entropy.

    Attributes:
        weights: w_t ``[samples]`` (``functional.gradient_rescaling``); 1 is cross-entropy's own.
        teacher: the teacher's probability of the label ``[samples]``.
        student: the student's ``[samples]``.
    """

    weights: np.ndarray
    teacher: np.ndarray
    student: np.ndarray

    def quantile(self, share: float) -> float:
        """Return the weight below which a share of the samples lies."""
        return float(np.quantile(self.weights, share))

    @property
    def negative(self) -> float:
        """Share of samples on which the teacher pulls away from the label."""
        return float((self.weights < 0).mean())

    @property
    def spread(self) -> float:
        """Upper less lower quartile: 0 where the teacher tells no sample from another."""
        return self.quantile(0.75) - self.quantile(0.25)

    @property
    def rank_correlation(self) -> float:
        """Spearman's, of the weights and the teacher's probability of the label; NaN without one.

        Near 1 the teacher's certainty alone decides which samples count; what the student lacks
        decides the rest.
        """
        from scipy.stats import rankdata

        ranks = np.stack([rankdata(self.weights), rankdata(self.teacher)])
        ranks -= ranks.mean(axis=1, keepdims=True)
        size = math.sqrt(float(np.prod((ranks**2).sum(axis=1))))
        return float(ranks[0] @ ranks[1]) / size if size > 0 else math.nan


def rescaling_between(
    student: np.ndarray,
    teacher: np.ndarray,
    targets: np.ndarray,
    *,
    share: float = 1.0,
    temperature: float = 1.0,
) -> Rescaling:
    """Return how a teacher rescales each labelled sample's gradient.

    Args:
        student: logits ``[samples, classes]``.
        teacher: logits ``[samples, classes]``.
        targets: class indices ``[samples]``, all labelled.
        share: λ, the teacher's share of the loss, in [0, 1]; 1: the knowledge term alone.
        temperature: of both sides, above 0.
    """
    import torch

    from limbeck.functional import gradient_rescaling

    ours, theirs = (
        torch.from_numpy(np.asarray(one, dtype=np.float64)) for one in (student, teacher)
    )
    labels = torch.from_numpy(np.asarray(targets, dtype=np.int64))
    weights = gradient_rescaling(ours, theirs, labels, share=share, temperature=temperature)
    at_label = [one.softmax(1).gather(1, labels[:, None])[:, 0].numpy() for one in (theirs, ours)]
    return Rescaling(weights.numpy(), *at_label)
