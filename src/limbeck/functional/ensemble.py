"""The branches of one network as an ensemble that teaches each of them."""

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional._common import Reduction
from limbeck.functional.logit import kd


def gated_logits(
    branch_logits: Float[Tensor, "batch branches classes"],
    gate: Float[Tensor, "batch branches"],
) -> Float[Tensor, "batch classes"]:
    """``Σ_i g_i z_i``: each sample's own weighted sum of its branches' logits.

    Args:
        branch_logits: ``[batch, branches, classes]``.
        gate: weights ``[batch, branches]``, usually not negative with a sum of 1.

    Raises:
        ValueError: the shapes do not fit.
    """
    if branch_logits.shape[:-1] != gate.shape:
        raise ValueError(
            f"gate has shape {tuple(gate.shape)}; expected {tuple(branch_logits.shape[:-1])}, one "
            "weight for each branch of each sample"
        )
    return (gate.unsqueeze(-1) * branch_logits).sum(dim=-2)


def native_ensemble(
    branch_logits: Float[Tensor, "batch branches classes"],
    ensemble_logits: Float[Tensor, "batch classes"],
    *,
    temperature: float = 3.0,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """``T² Σ_i KL(ensemble ‖ branch i)`` of Lan, Zhu and Gong (1806.04606).

    Args:
        branch_logits: ``[batch, branches, classes]``.
        ensemble_logits: ``[batch, classes]``; fixed, receives no gradient.
        temperature: T > 0.
        reduction: see ``Reduction``; summed over the branches in each case.

    Raises:
        ValueError: shapes do not fit, temperature is not positive, or reduction is unknown.
    """
    each = [
        kd(logits, ensemble_logits, temperature=temperature, reduction=reduction)
        for logits in branch_logits.unbind(dim=-2)
    ]
    return torch.stack(each).sum(dim=0)
