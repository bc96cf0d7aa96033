"""Losses that tell a sample's own counterpart from those of other samples."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from limbeck.functional._common import check_positive, result_dtype, working_dtype


def crd_nce(
    positive: Float[Tensor, " batch"],
    negatives: Float[Tensor, "batch negatives"],
    *,
    log_normaliser: Float[Tensor, ""] | float,
    num_data: int,
    counted: Bool[Tensor, "batch negatives"] | None = None,
    eps: float = 1e-7,
) -> Float[Tensor, ""]:
    r"""One side of CRD's loss (Tian et al. 1910.10699), as the authors' code has it, in logarithms.

    With ``P = exp(score) / Z``, noise ``q = 1 / num_data`` and ``m`` negatives a sample:
    ``-[log(P₀ / (P₀ + mq + ε)) + Σ log(mq / (P_i + mq + ε))]``, mean over the samples.

    Args:
        positive: ``[batch]`` score of each sample with its own counterpart, the temperature in it.
        negatives: ``[batch, negatives]`` scores with others.
        log_normaliser: log Z.
        num_data: number of samples that negatives are drawn from.
        counted: which negatives count; None: all. Without any, ``m`` is 0.
        eps: as in the authors' code, above 0.

    Returns:
        A scalar; 0 for an empty batch.

    Raises:
        ValueError: shapes that do not fit, or a number that is not positive.
    """
    check_positive("eps", eps)
    check_positive("num_data", num_data)
    if len(positive) != len(negatives):
        raise ValueError(
            f"scores: {len(positive)} samples have positives, {len(negatives)} have negatives; "
            "expected the same samples"
        )
    dtype = working_dtype(positive, negatives)
    own, others = positive.to(dtype) - log_normaliser, negatives.to(dtype) - log_normaliser
    if counted is None:
        counted = torch.ones_like(others, dtype=torch.bool)
    noise = counted.sum(1).to(dtype) / num_data
    level = (noise + eps).log()
    found = softplus(level - own)
    # log(P + mq + ε) - log(mq): the noise share itself costs a little, as ε stands beside it
    costs = softplus(others - level[:, None]) + (level - noise.log())[:, None]
    missed = torch.where(counted, costs, 0.0).sum(1)
    return ((found + missed).sum() / max(len(own), 1)).to(result_dtype(positive))


def bank_scores(
    embedding: Float[Tensor, "batch dim"],
    bank: Float[Tensor, "data dim"],
    rows: Int[Tensor, "batch chosen"],
) -> Float[Tensor, "batch chosen"]:
    """Products of each embedding with rows of a bank of its own choice.

    The smaller of two ways in memory: all products at once, ``batch x data``, of which the chosen
    are picked; or the chosen rows, ``batch x chosen x dim``.

    Args:
        embedding: ``[batch, dim]``.
        bank: ``[data, dim]``; fixed, receives no gradient, and may be written to before the
            backward pass.
        rows: int64 ``[batch, chosen]``.
    """
    bank = bank.detach()
    with torch.autocast(embedding.device.type, enabled=False):
        embedding = embedding.to(bank.dtype)
        if len(bank) <= rows.shape[1] * bank.shape[1]:
            return (embedding @ bank.clone().T).gather(1, rows)
        chosen = bank[rows]
        return torch.einsum("bd,bkd->bk", embedding, chosen)


def bank_update(
    bank: Float[Tensor, "data dim"],
    rows: Int[Tensor, " batch"],
    embedding: Float[Tensor, "batch dim"],
    *,
    momentum: float,
) -> None:
    """Move rows of a bank towards new embeddings, and back to length 1, in place.

    ``row ← (μ row + (1 - μ) embedding) / ‖·‖``. Of a row that stands there twice, the last counts,
    on every device.

    Args:
        bank: ``[data, dim]``, written to.
        rows: int64 ``[batch]``.
        embedding: ``[batch, dim]``.
        momentum: μ in [0, 1).
    """
    unique, place = torch.unique(rows, return_inverse=True)
    last = torch.zeros_like(unique).scatter_reduce(
        0, place, torch.arange(len(rows), device=rows.device), "amax"
    )
    moved = momentum * bank[unique] + (1 - momentum) * embedding.detach()[last].to(bank.dtype)
    bank[unique] = torch.nn.functional.normalize(moved, dim=1)
