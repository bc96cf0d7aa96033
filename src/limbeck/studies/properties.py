"""What a teacher is like, from what it said about the test part: read from a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from limbeck.errors import DataError

HIGHER_IS_BETTER: Mapping[str, bool | None] = {
    "accuracy": True,
    "ece": False,
    "ace": False,
    "overconfidence": False,
    "nll": False,
    "brier": False,
    "confidence": None,
}
"""Properties of a teacher, and whether more is better; None: neither is."""


def teacher_properties(folder: Path) -> dict[str, float]:
    """Return the properties of the teacher of a run; empty where it has none, or no labels.

    Args:
        folder: a run folder with the test predictions of a classification.

    Raises:
        DataError: predictions.safetensors is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from limbeck import functional
    from limbeck.data.batch import has_label

    file = folder / "predictions.safetensors"
    if not file.exists():
        return {}
    try:
        said = load_file(file)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file} is damaged: {error}") from None
    logits, targets = said.get("teacher_logits"), said.get("targets")
    if logits is None or targets is None or logits.dim() != 2 or targets.dim() != 1:
        return {}
    known = has_label(targets)
    logits, targets = logits[known], targets[known]
    probs = logits.double().softmax(dim=1)
    found = {
        "accuracy": (probs.argmax(dim=1) == targets).double().mean(),
        "ece": functional.expected_calibration_error(probs, targets),
        "ace": functional.adaptive_calibration_error(probs, targets),
        "overconfidence": functional.overconfidence_error(probs, targets),
        "nll": functional.negative_log_likelihood(logits, targets),
        "brier": functional.brier_score(probs, targets),
        "confidence": probs.max(dim=1).values.mean(),
    }
    return {name: float(value) for name, value in found.items()}
