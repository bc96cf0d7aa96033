"""How far stored answers are from the dense ones, measured while both are at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.functional import kl_divergence, kl_from_log_probs
from limbeck.taps.outputs import Outputs, SparseProbs
from limbeck.teachers.cache.codec import Codec

MEANING: Mapping[str, str] = {
    "dense": "KL(teacher ‖ stored)",
    "topk": "KL(teacher ‖ stored), the tail's mass spread evenly over the classes not kept",
    "sampled": "KL(stored sample ‖ teacher); the gradient is right on average all the same",
    "values": "squared error",
}


def measure(task: str, dense: Outputs, stored: Outputs, codec: Codec) -> dict[str, float]:
    """Compare one batch: sums over its rows, so that batches add up.

    Args:
        task: "classification", "multilabel" or "regression".
        dense: the teacher's answers.
        stored: the same, as a reader of the cache gets them.
        codec: the form that they are stored in.

    Returns:
        "rows", "kl" (sum; a squared error for regression), "kl_most" (largest), "variance" (of
        the gradient of a random sample: sum over rows of its total variance), and for features
        "error" and "size": sums of squares of the difference and of the values.
    """
    logits = dense.logits.double()
    variance = 0.0
    if stored.sparse is not None:
        rows, variance = _sparse(logits, stored.sparse, codec)
    elif task == "classification":
        rows = kl_divergence(stored.logits.double(), logits, reduction="none")
    elif task == "multilabel":
        pairs = (
            torch.stack((z, torch.zeros_like(z)), -1) for z in (stored.logits.double(), logits)
        )
        rows = kl_divergence(*pairs, reduction="none").sum(-1)
    else:
        rows = (stored.logits.double() - logits).square().sum(-1)
    rows = rows.reshape(-1)
    error, size = _features(dense, stored)
    return {
        "rows": len(rows),
        "kl": float(rows.sum()),
        "kl_most": float(rows.max()),
        "variance": variance,
        "error": error,
        "size": size,
    }


def add_up(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the sums (largest values) over batches."""
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            join = max if name == "kl_most" else float.__add__
            total[name] = join(total[name], float(value)) if name in total else float(value)
    return total


def meaning(codec: str, task: str) -> str:
    """Return in words what "kl" is for a codec."""
    if codec in MEANING:
        return MEANING[codec]
    return MEANING["values" if task == "regression" else "dense"]


def _sparse(logits: Tensor, kept: SparseProbs, codec: Codec) -> tuple[Tensor, float]:
    """Return a divergence for each row, and the summed variance of a sample's gradient."""
    log_p = (logits / codec.temperature).log_softmax(dim=-1)
    classes = logits.shape[-1]
    if kept.log_tail is None:
        p_hat = kept.log_probs.double()
        there = log_p.gather(-1, kept.ids)
        rows = (p_hat.exp() * torch.where(p_hat > -torch.inf, p_hat - there, 0.0)).sum(-1)
        spread = 1 - log_p.exp().square().sum(-1)
        return rows, float(spread.sum() / codec.rounds)
    others = max(classes - kept.ids.shape[-1], 1)
    even = (kept.log_tail.double() - torch.tensor(float(others)).log())[..., None]
    log_q = even.expand_as(log_p).scatter(-1, kept.ids, kept.log_probs.double())
    return kl_from_log_probs(log_q, log_p, reduction="none"), 0.0


def _features(dense: Outputs, stored: Outputs) -> tuple[float, float]:
    error = size = 0.0
    for ours, theirs in ((stored.features, dense.features), (stored.attentions, dense.attentions)):
        for name, value in theirs.items():
            error += float(F.mse_loss(ours[name].double(), value.double(), reduction="sum"))
            size += float(value.double().square().sum())
    return error, size


def summary(total: Mapping[str, float], row_bytes: float, codec: str, task: str) -> dict[str, Any]:
    """Return what a manifest says of the measurements."""
    rows = max(total["rows"], 1.0)
    found: dict[str, Any] = {
        "bytes_per_sample": row_bytes,
        "rows": int(total["rows"]),
        "kl": total["kl"] / rows,
        "kl_most": total["kl_most"],
        "what": meaning(codec, task),
    }
    if codec == "sampled":
        found["gradient_variance"] = total["variance"] / rows
    if total["size"] > 0:
        found["features_relative_error"] = (total["error"] / total["size"]) ** 0.5
    return found
