"""Predictions that are sums of what groups of features say (KED, Chowdhury et al. 2310.02572)."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional._common import Reduction, check_same_shape, result_dtype
from limbeck.functional.divergence import kl_divergence

FLOOR = 1e-15  # what the authors' code adds to a probability before its logarithm


def superfeature_explanations(
    branch_logits: Float[Tensor, "batch groups classes"], *, floor: float = FLOOR
) -> Float[Tensor, "batch groups classes"]:
    """``log(softmax(z_i) + floor)``: what each group of features says of the classes.

    Args:
        branch_logits: ``[batch, groups, classes]``.
        floor: added to each probability, at least 0, so that no group can forbid a class for good.

    Raises:
        ValueError: floor is negative.
    """
    if not floor >= 0:
        raise ValueError(f"floor is {floor}; expected a number of at least 0")
    logs = branch_logits.to(result_dtype(branch_logits)).log_softmax(dim=-1)
    if floor == 0:
        return logs
    return torch.logaddexp(logs, torch.full_like(logs, math.log(floor)))


def naive_bayes(
    explanations: Float[Tensor, "batch groups classes"],
    prior: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, "batch classes"]:
    """``Σ_i log e_i - (M - 1) log b``: logits of the product of M answers, the prior counted once.

    With one group they are its log-probabilities, whatever the prior; a uniform prior moves all
    classes alike and changes no probability.

    Args:
        explanations: log-probabilities ``[batch, groups, classes]``.
        prior: b, positive, ``[classes]``; None: uniform.

    Raises:
        ValueError: the prior is not one number a class.
    """
    total: Tensor = explanations.sum(dim=-2)
    groups = explanations.shape[-2]
    if prior is None or groups == 1:
        return total
    if prior.shape != explanations.shape[-1:]:
        raise ValueError(
            f"prior has shape {tuple(prior.shape)}; expected ({explanations.shape[-1]},), one "
            "number for each class"
        )
    return total - (groups - 1) * prior.to(total.dtype).log()


def superfeature_kd(
    student_explanations: Float[Tensor, "batch groups classes"],
    teacher_explanations: Float[Tensor, "batch groups classes"],
    *,
    temperature: float = 10.0,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """``τ²/M Σ_i KL(softmax(log e_T,i / τ) ‖ softmax(log e_S,i / τ))``.

    Args:
        student_explanations: log-probabilities of each group, ``[batch, groups, classes]``.
        teacher_explanations: the same; fixed, receive no gradient.
        temperature: τ > 0.
        reduction: see ``Reduction``; a sample's value is the mean over its groups.

    Raises:
        ValueError: as ``kl_divergence``.
    """
    check_same_shape(student_explanations, teacher_explanations, "explanations")
    value = kl_divergence(
        student_explanations, teacher_explanations, temperature=temperature, reduction=reduction
    )
    if reduction == "none":
        return value.mean(dim=-1)
    return value / student_explanations.shape[-2] if reduction == "sum" else value


def explanation_hessian(
    inputs: Float[Tensor, "batch ..."],
    logits_of: Callable[[Tensor], Tensor],
    *,
    floor: float = FLOOR,
) -> Float[Tensor, "features features"]:
    """Return the mean over samples of the Hessian of ``Σ_c log(p_c(x) + floor)``.

    Args:
        inputs: ``[batch, ...]``, at least one sample; each entry of a sample is a feature.
        logits_of: the network, from inputs to ``[batch, classes]``, each sample by itself, twice
            differentiable in its argument.
        floor: as in ``superfeature_explanations``.

    Returns:
        ``[features, features]``, without a graph; zero where the function is linear.
    """
    shown = inputs.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = logits_of(shown)
        value = superfeature_explanations(logits.unsqueeze(1), floor=floor).sum()
        (slope,) = torch.autograd.grad(value, shown, create_graph=True)
        # Row j of all Hessians at once: samples do not depend on each other.
        rows = [_row(total, shown) for total in slope.flatten(1).sum(dim=0)]
    return torch.stack(rows) / len(inputs)


def feature_interactions(
    hessian: Float[Tensor, "features features"],
) -> Float[Tensor, "features features"]:
    """How strongly pairs of features act together: ``|H| + |H|ᵀ`` without its diagonal.

    Two features of which a function is a sum have none.

    Args:
        hessian: H, ``[features, features]``, the mean over samples.

    Returns:
        ``[features, features]``, symmetric, not negative, zero on the diagonal.
    """
    strength = hessian.abs()
    return (strength + strength.T).fill_diagonal_(0)


def _row(total: Tensor, inputs: Tensor) -> Tensor:
    """Return the slope of one entry's sum over samples, itself summed over samples."""
    if total.requires_grad:
        (row,) = torch.autograd.grad(total, inputs, retain_graph=True, allow_unused=True)
        if row is not None:
            return row.flatten(1).sum(dim=0)
    return torch.zeros_like(inputs[0].flatten()).detach()  # the function is linear there
