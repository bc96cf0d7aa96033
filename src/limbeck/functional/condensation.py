"""Knowledge condensation: which samples are worth their cost, when (KCD, Li et al. 2207.05409)."""

import math
from fractions import Fraction

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.functional._common import result_dtype, working_dtype


def entropy_value(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch"]:
    """Value of a sample: the entropy of the student's prediction at temperature 1 (eq. 7).

    Args:
        logits: ``[*batch, classes]``; -inf, or so low that its probability is 0, counts 0.

    Returns:
        ``[*batch]`` in nats, from 0 (one-hot) to log(classes) (uniform).
    """
    log_p = torch.log_softmax(logits.to(working_dtype(logits)), dim=-1)
    p = log_p.exp()
    return -(p * log_p.masked_fill(p == 0, 0.0)).sum(dim=-1).to(result_dtype(logits))


def online_mean(
    mean: Float[Tensor, "*samples"],
    count: Int[Tensor, "*samples"],
    value: Float[Tensor, "*samples"],
) -> Float[Tensor, "*samples"]:
    """Mean of the values so far with one more (eq. 12): ``(F-1)/F · mean + value/F``.

    Args:
        mean: mean of the values before; anything where there was none.
        count: how many values that was (F - 1).
        value: the new one.

    Returns:
        The new mean; count is then F = ``count + 1``.
    """
    return torch.where(count == 0, value, mean + (value - mean) / (count + 1))


def cost_aware_score(
    mean: Float[Tensor, "*samples"],
    count: Int[Tensor, "*samples"],
    *,
    alpha: float = 0.03,
    stage_epochs: int,
) -> Float[Tensor, "*samples"]:
    """Score to rank samples by (eq. 13): ``mean · (count / stage_epochs)^alpha``.

    Args:
        mean: mean value of each sample.
        count: how often each sample has been used; the bonus grows with it.
        alpha: strength of the bonus; 0.03 is the authors' code's.
        stage_epochs: epochs of a stage (the code's 40). A constant factor, without effect on the
            order.

    Returns:
        The scores; +inf for a sample that was never used (count 0), which is thereby kept: nothing
        is known against it.

    Raises:
        ValueError: stage_epochs is not positive.
    """
    if stage_epochs < 1:
        raise ValueError(f"stage_epochs is {stage_epochs}; expected at least 1")
    score = mean * (count.to(mean.dtype) / stage_epochs) ** alpha
    return torch.where(count == 0, torch.inf, score)


def ranking(score: Float[Tensor, " samples"]) -> Int[Tensor, " samples"]:
    """Sample indices from the highest score to the lowest.

    Deterministic: equal scores keep the order of their indices. Never-used samples (+inf) come
    first, and so does a score of NaN, which says no more about a sample.
    """
    unknown = torch.where(torch.isnan(score), torch.inf, score)
    return torch.argsort(unknown, descending=True, stable=True)


def keep_schedule(num_samples: int, tau: float, epochs: int, stage_epochs: int) -> tuple[int, ...]:
    """Number of samples kept in each stage of ``stage_epochs`` epochs.

    It starts with all and falls by ``int(num_samples (1 - tau) / (epochs / stage_epochs))`` a
    stage. (The authors' code has 6 for the number of stages, which is its 240/40. As there, the
    share tau would be reached only after the last stage.)

    Args:
        num_samples: size of the whole set.
        tau: share of the samples that is kept at the end, in (0, 1]; 1 drops nothing.
        epochs: epochs of the run.
        stage_epochs: epochs between two rankings; the last stage may be shorter.

    Raises:
        ValueError: an argument is out of range.

    >>> keep_schedule(50_000, tau=0.7, epochs=240, stage_epochs=40)
    (50000, 47500, 45000, 42500, 40000, 37500)
    """
    if not 0 < tau <= 1:
        raise ValueError(f"tau is {tau}; expected a share in (0, 1]")
    for name, value, least in (
        ("num_samples", num_samples, 0),
        ("epochs", epochs, 1),
        ("stage_epochs", stage_epochs, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}")
    share = Fraction(str(tau))  # decimal, so that 0.9 of 50000 loses nothing to rounding
    step = int(num_samples * (1 - share) * stage_epochs / epochs)
    stages = math.ceil(epochs / stage_epochs)
    return tuple(num_samples - step * stage for stage in range(stages))


def mixing_weights(num_lost: int, eps_max: float = 0.3) -> Float[Tensor, " lost"]:
    """Weight of the kept sample in each mixture of a kept and a lost one (eq. 15, as coded).

    ``w_k = (1 - eps_max) + eps_max (L - k) / L`` for k = 0 … L-1, falling from 1.

    Args:
        num_lost: L, the number of samples dropped at this step.
        eps_max: the largest share of a lost sample, in [0, 1]; 0 mixes nothing.

    Returns:
        ``[num_lost]`` in torch's default precision.

    Raises:
        ValueError: an argument is out of range.
    """
    if num_lost < 0:
        raise ValueError(f"num_lost is {num_lost}; expected at least 0")
    if not 0 <= eps_max <= 1:
        raise ValueError(f"eps_max is {eps_max}; expected a share in [0, 1]")
    k = torch.arange(num_lost, dtype=torch.float64)
    return (1 - eps_max * k / max(num_lost, 1)).to(torch.get_default_dtype())
