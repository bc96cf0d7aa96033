"""Measuring a student on a split: quality, calibration, fidelity to the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch, has_label

HIGHER_IS_BETTER = {
    "accuracy": True,
    "member_accuracy": True,
    "worst_group_accuracy": True,
    "probe_accuracy": True,
    "top5": True,
    "agreement": True,
    "label_loyalty": True,
    "probability_loyalty": True,
    "saliency_loyalty": True,
    "map": True,
    "f1": True,
    "r2": True,
    "nll": False,
    "train_nll": False,
    "brier": False,
    "ece": False,
    "kl_to_teacher": False,
    "mse": False,
    "mae": False,
    "train_gradient_cosine": True,
    "train_gradient_cosine_gain": True,
}
MAIN_METRIC = {"classification": "accuracy", "multilabel": "map", "regression": "r2"}


@dataclass(frozen=True)
class Answers:
    """What models said about a split.

    Attributes:
        logits: float32 ``[samples, outputs]``, one tensor for each member (one for one student).
        targets: the split's targets, or None.
    """

    logits: tuple[Tensor, ...]
    targets: Tensor | None


@torch.no_grad()
def collect(
    ask: Callable[[Batch], Tensor | tuple[Tensor, ...]],
    batches: Iterable[Batch],
    device: torch.device,
    modules: Iterable[nn.Module] = (),
) -> Answers:
    """Run a model over batches in evaluation mode and keep what it said.

    Args:
        ask: gives logits for a batch (several tensors for a cohort).
        batches: the split, in order.
        device: where the model lives.
        modules: modules to hold in evaluation mode meanwhile; their modes are restored.
    """
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for part, _ in modes:
        part.training = False
    heard: list[tuple[Tensor, ...]] = []
    targets: list[Tensor] = []
    try:
        for batch in batches:
            said = ask(batch.to(device))
            voices = said if isinstance(said, tuple) else (said,)
            heard.append(tuple(voice.detach().float().cpu() for voice in voices))
            if batch.targets is not None:
                targets.append(batch.targets.cpu())
    finally:
        for part, mode in modes:
            part.training = mode
    return Answers(
        tuple(torch.cat(column) for column in zip(*heard, strict=True)),
        torch.cat(targets) if targets else None,
    )


def score(
    kind: str,
    logits: Tensor,
    targets: Tensor | None,
    teacher_logits: Tensor | None = None,
    groups: Tensor | None = None,
) -> dict[str, float]:
    """Return all metrics of a task.

    Args:
        kind: "classification", "multilabel" or "regression".
        logits: ``[samples, outputs]``.
        targets: labels; samples without one count for fidelity only. None: fidelity only.
        teacher_logits: what the teacher says about the same samples, or None.
        groups: int64 ``[samples]``, which of classes have their worst accuracy told; or None.
    """
    metrics: dict[str, float] = {}
    if targets is not None:
        labelled = has_label(targets)
        if bool(labelled.any()):
            metrics |= _SCORES[kind](logits[labelled], targets[labelled])
            if groups is not None and kind == "classification":
                each = group_accuracies(logits[labelled], targets[labelled], groups[labelled])
                metrics["worst_group_accuracy"] = min(each.values())
    if teacher_logits is not None:
        metrics |= _fidelity(kind, logits, teacher_logits)
    return metrics


def group_accuracies(logits: Tensor, targets: Tensor, groups: Tensor) -> dict[int, float]:
    """Return the accuracy on each group that there is.

    Args:
        logits: ``[samples, classes]``.
        targets: class indices ``[samples]``, all known.
        groups: int64 ``[samples]``.
    """
    right = (logits.argmax(dim=1) == targets).double()
    return {int(g): right[groups == g].mean().item() for g in torch.unique(groups)}


def among_members(kind: str, members: Sequence[Tensor], targets: Tensor | None) -> dict[str, float]:
    """Return what an ensemble is made of: its members' mean accuracy, how often two of them differ.

    Args:
        kind: "classification"; of other tasks nothing is told.
        members: logits ``[samples, classes]`` of each, at least two.
        targets: class indices, or None.
    """
    if kind != "classification":
        return {}
    first = torch.stack([logits.argmax(dim=1) for logits in members])
    pairs = [(first[i] != first[j]) for i in range(len(first)) for j in range(i)]
    found = {"disagreement": torch.stack(pairs).double().mean().item()}
    if targets is not None and bool((known := has_label(targets)).any()):
        right = first[:, known] == targets[known]
        found["member_accuracy"] = right.double().mean().item()
    return found


def _classification(logits: Tensor, targets: Tensor) -> dict[str, float]:
    right = logits.argmax(dim=1) == targets
    metrics = {"accuracy": right.double().mean().item()}
    if logits.shape[1] > 5:
        best = logits.topk(5, dim=1).indices
        metrics["top5"] = (best == targets[:, None]).any(dim=1).double().mean().item()
    probabilities = logits.double().softmax(dim=1)
    return metrics | {
        "nll": float(functional.negative_log_likelihood(logits, targets)),
        "brier": float(functional.brier_score(probabilities, targets)),
        "ece": float(functional.expected_calibration_error(probabilities, targets)),
    }


def _multilabel(logits: Tensor, targets: Tensor) -> dict[str, float]:
    from sklearn.metrics import average_precision_score, f1_score

    known = ~targets.isnan()
    precision, f1 = [], []
    for found, truth, labelled in zip(logits.T, targets.T, known.T, strict=True):
        found, truth = found[labelled].numpy(), truth[labelled].numpy()
        if truth.any():  # without a positive sample, recall says nothing
            precision.append(float(average_precision_score(truth, found)))
        if len(truth):
            f1.append(float(f1_score(truth, found > 0, zero_division=0.0)))
    return {
        "map": sum(precision) / max(len(precision), 1),
        "f1": sum(f1) / max(len(f1), 1),
        "nll": float(functional.binary_cross_entropy(logits, targets)),
    }


def _regression(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    targets = targets.reshape(outputs.shape).double()
    residual = outputs.double() - targets
    spread = (targets - targets.nanmean(dim=0)).pow(2).nansum()
    return {
        "mse": residual.pow(2).nanmean().item(),
        "mae": residual.abs().nanmean().item(),
        "r2": (1 - residual.pow(2).nansum() / spread).item() if spread > 0 else 0.0,
    }


_SCORES = {
    "classification": _classification,
    "multilabel": _multilabel,
    "regression": _regression,
}


def _fidelity(kind: str, logits: Tensor, teacher_logits: Tensor) -> dict[str, float]:
    if kind == "classification":
        same = logits.argmax(dim=1) == teacher_logits.argmax(dim=1)
        kl = functional.kl_divergence(logits.double(), teacher_logits.double())
    elif kind == "multilabel":
        same = (logits > 0) == (teacher_logits > 0)
        kl = functional.kd_multilabel(logits.double(), teacher_logits.double(), temperature=1.0)
    else:
        return {"mse_to_teacher": (logits - teacher_logits).double().pow(2).mean().item()}
    return {"agreement": same.double().mean().item(), "kl_to_teacher": float(kl)}
