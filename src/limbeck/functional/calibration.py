"""Calibration: does a probability mean what it says?

Everything here is computed in float64 and returned so. Samples whose target is -100 (no label) are
left out; with no sample left the result is NaN. Equal-width bins are (low, high], the lowest with
its 0. Errors that bin the predicted class use the largest probability as confidence.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from limbeck.functional._common import IGNORE, check_predictions, float64
from limbeck.functional.task import cross_entropy


@dataclass(frozen=True)
class ReliabilityBins:
    """What a reliability diagram shows, per bin; the two means are NaN where a bin is empty."""

    count: Int[Tensor, " bins"]
    confidence: Float[Tensor, " bins"]
    accuracy: Float[Tensor, " bins"]


def reliability_bins(
    probs: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    *,
    num_bins: int = 15,
) -> ReliabilityBins:
    """Count, mean confidence and accuracy in equal-width bins of the confidence.

    Args:
        probs: ``[batch, classes]``.
        targets: class indices ``[batch]``; -100 for no label.
        num_bins: number of bins of [0, 1].

    Raises:
        ValueError: shapes do not fit or num_bins is not positive.
    """
    confidence, correct = _top(probs, targets, num_bins)
    return _equal_width(confidence, correct, num_bins)


def expected_calibration_error(
    probs: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    *,
    num_bins: int = 15,
) -> Float[Tensor, ""]:
    """ECE (Guo et al. 1706.04599): ``sum_m |B_m|/N · |accuracy(B_m) - confidence(B_m)|``.

    It is the sum of ``overconfidence_error`` and ``underconfidence_error``. Arguments and errors as
    in ``reliability_bins``.

    >>> expected_calibration_error(torch.tensor([[0.75, 0.25]]), torch.tensor([0]))
    tensor(0.2500, dtype=torch.float64)
    """
    bins = reliability_bins(probs, targets, num_bins=num_bins)
    return _weighted(bins, (bins.accuracy - bins.confidence).abs())


def overconfidence_error(
    probs: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    *,
    num_bins: int = 15,
) -> Float[Tensor, ""]:
    """Over-confident part of the ECE: ``sum_m |B_m|/N · max(confidence - accuracy, 0)``."""
    bins = reliability_bins(probs, targets, num_bins=num_bins)
    return _weighted(bins, (bins.confidence - bins.accuracy).clamp(min=0))


def underconfidence_error(
    probs: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    *,
    num_bins: int = 15,
) -> Float[Tensor, ""]:
    """Under-confident part of the ECE: ``sum_m |B_m|/N · max(accuracy - confidence, 0)``."""
    bins = reliability_bins(probs, targets, num_bins=num_bins)
    return _weighted(bins, (bins.accuracy - bins.confidence).clamp(min=0))


def classwise_calibration_error(
    probs: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    *,
    num_bins: int = 15,
) -> Float[Tensor, ""]:
    """Static (class-wise) ECE: the ECE of "is it class k?", averaged over *all* classes k.

    Arguments and errors as in ``reliability_bins``. (Nixon et al. 1904.01685, SCE.)
    """
    probs, targets = _checked(probs, targets, num_bins)
    errors = []
    for k in range(probs.shape[1]):
        bins = _equal_width(probs[:, k], targets == k, num_bins)
        errors.append(_weighted(bins, (bins.accuracy - bins.confidence).abs()))
    return torch.stack(errors).mean()


def adaptive_expected_calibration_error(
    probs: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    *,
    num_bins: int = 15,
) -> Float[Tensor, ""]:
    """ECE with bins of equal mass: the sorted confidences cut into runs of equal count (±1).

    Every sample is in a bin. Samples of equal confidence share their mean accuracy, so that the
    order of the samples does not matter. Fewer samples than bins: one bin per sample. Arguments and
    errors as in ``reliability_bins``.
    """
    confidence, correct = _top(probs, targets, num_bins)
    counts, gaps = _equal_mass(confidence, correct, num_bins)
    return (counts * gaps).sum() / counts.sum()


def adaptive_calibration_error(
    probs: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    *,
    num_bins: int = 15,
) -> Float[Tensor, ""]:
    """ACE (Nixon et al. 1904.01685): ``1/(K R) sum_k sum_r |accuracy(r, k) - confidence(r, k)|``.

    The ranges r are of equal mass over the sorted probabilities of class k, over all classes; ties
    and few samples as in ``adaptive_expected_calibration_error``. Arguments and errors as in
    ``reliability_bins``.
    """
    probs, targets = _checked(probs, targets, num_bins)
    errors = [
        _equal_mass(probs[:, k], targets == k, num_bins)[1].mean() for k in range(probs.shape[1])
    ]
    return torch.stack(errors).mean()


def negative_log_likelihood(
    logits: Float[Tensor, "batch classes"], targets: Int[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Mean of ``-log softmax(logits)[target]``: of logits, since probabilities underflow.

    Args:
        logits: ``[batch, classes]``; the log of probabilities will do.
        targets: class indices ``[batch]``; -100 for no label.

    Raises:
        ValueError: shapes do not fit.
    """
    check_predictions(logits, targets)
    kept = targets != IGNORE
    return cross_entropy(*float64(logits, targets, kept), reduction="none").mean()


def brier_score(
    probs: Float[Tensor, "batch classes"], targets: Int[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Brier score: mean over samples of ``sum_k (p_k - onehot_k)²``, in [0, 2].

    Args:
        probs: ``[batch, classes]``.
        targets: class indices ``[batch]``; -100 for no label.

    Raises:
        ValueError: shapes do not fit.
    """
    probs, targets = _checked(probs, targets, 1)
    at_label = probs.gather(1, targets.unsqueeze(1)).squeeze(1)
    others = (probs * probs).sum(dim=1) - at_label**2
    return (others + (1 - at_label) ** 2).mean()


def _checked(probs: Tensor, targets: Tensor, num_bins: int) -> tuple[Tensor, Tensor]:
    """The labelled samples, in float64."""
    check_predictions(probs, targets)
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}; expected at least 1")
    kept = targets != IGNORE
    return float64(probs.detach(), targets, kept)


def _top(probs: Tensor, targets: Tensor, num_bins: int) -> tuple[Tensor, Tensor]:
    """Confidence of the predicted class, and whether it is the right one."""
    probs, targets = _checked(probs, targets, num_bins)
    confidence, predicted = probs.max(dim=1)
    return confidence, predicted == targets


def _equal_width(
    confidence: Float[Tensor, " batch"], correct: Bool[Tensor, " batch"], num_bins: int
) -> ReliabilityBins:
    inner = torch.arange(1, num_bins, dtype=torch.float64, device=confidence.device) / num_bins
    # bucketize puts v at i where edge[i-1] < v <= edge[i]: bins (low, high].
    index = torch.bucketize(confidence.contiguous(), inner)
    member = index.unsqueeze(1) == torch.arange(num_bins, device=index.device)
    count = member.sum(dim=0)
    total = torch.where(member, confidence.unsqueeze(1), 0.0).sum(dim=0)
    right = (member & correct.unsqueeze(1)).sum(dim=0)
    return ReliabilityBins(count, total / count, right.double() / count)


def _weighted(bins: ReliabilityBins, gaps: Tensor) -> Tensor:
    """Mean of the gaps over samples; empty bins count nothing."""
    return torch.where(bins.count > 0, bins.count * gaps, 0.0).sum() / bins.count.sum()


def _equal_mass(
    confidence: Float[Tensor, " batch"], correct: Bool[Tensor, " batch"], num_bins: int
) -> tuple[Float[Tensor, " bins"], Float[Tensor, " bins"]]:
    """Size and gap |accuracy - confidence| of bins that hold equally many samples."""
    confidence, order = confidence.sort(stable=True)
    accuracy = _share_ties(confidence, correct[order])
    num_bins = min(num_bins, max(len(confidence), 1))
    runs = zip(confidence.tensor_split(num_bins), accuracy.tensor_split(num_bins), strict=True)
    sizes, gaps = zip(*((len(c), (a.mean() - c.mean()).abs()) for c, a in runs), strict=True)
    return confidence.new_tensor(sizes), torch.stack(gaps)


def _share_ties(confidence: Tensor, correct: Tensor) -> Tensor:
    """Accuracy of each sorted sample, averaged over the samples of equal confidence."""
    _, group, size = torch.unique_consecutive(confidence, return_inverse=True, return_counts=True)
    right = F.pad(correct.long().cumsum(dim=0), (1, 0))  # whole numbers: exact, and repeatable
    end = size.cumsum(dim=0)
    shared: Tensor = (right[end] - right[end - size]).double() / size
    return shared[group]
