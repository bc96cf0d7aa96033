"""What a network knows beyond its task: which samples are views of one another."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from limbeck.functional._common import IGNORE, check_class_indices, result_dtype


def cosine_similarities(
    first: Float[Tensor, "views dim"], second: Float[Tensor, "samples dim"]
) -> Float[Tensor, "views samples"]:
    """The cosine of every vector of one set with every one of another; gradients reach both.

    Args:
        first: ``[views, dim]``.
        second: ``[samples, dim]``.

    Raises:
        ValueError: the vectors differ in length.
    """
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"vectors have {first.shape[1]} and {second.shape[1]} entries; expected as many"
        )
    dtype = result_dtype(first)
    with torch.autocast(first.device.type, enabled=False):
        ours, theirs = (normalize(one.to(dtype), dim=1) for one in (first, second))
        return ours @ theirs.T


def least_wrong(
    scores: Float[Tensor, "batch classes"], targets: Int[Tensor, " batch"], *, share: float
) -> Bool[Tensor, " batch"]:
    """Which answers are right, and the share of the wrong ones that err least.

    An answer errs by the number of classes that score above the right one; of those that err alike,
    the ones that give it more score come first.

    Args:
        scores: ``[batch, classes]``; any increasing function of them gives the same ranks.
        targets: the right class of each, ``[batch]``; where it is unknown (-100), the answer stays.
        share: of the wrong answers, in [0, 1]; the number is rounded down.

    Raises:
        ValueError: there is not one class index for each row, or share is not in [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; expected a share in [0, 1]")
    check_class_indices(scores, targets)
    known = targets != IGNORE
    truth = scores.gather(1, torch.where(known, targets, 0).long()[:, None])
    errors = (scores > truth).sum(dim=1).where(known, 0)
    kept = errors == 0
    best_first = truth[:, 0].argsort(descending=True, stable=True)
    order = best_first[errors[best_first].argsort(stable=True)]
    wrong = order[~kept[order]]
    kept[wrong[: int(share * len(wrong))]] = True
    return kept
