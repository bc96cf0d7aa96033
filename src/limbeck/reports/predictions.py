"""What test predictions say: calibration, agreement with the teacher, accuracy by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from limbeck.reports.evidence import Arm, Evidence
from limbeck.reports.reading import RunRecord
from limbeck.studies.statistics import Estimate, estimate

NUM_BINS = 15
"""Equal-width bins of a reliability diagram."""


@dataclass(frozen=True)
class Answers:
    """Labelled test samples of one run and what was said about them.

    Attributes:
        student: logits ``[samples, classes]``.
        targets: class indices ``[samples]``.
        teacher: logits ``[samples, classes]``, or None.
        borrowed: the teacher's answers come from another run on the same samples (the run itself
            had no teacher): a control for how much agreement accuracy alone brings.
    """

    student: np.ndarray
    targets: np.ndarray
    teacher: np.ndarray | None = None
    borrowed: bool = False


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram.

    Attributes:
        label: whose.
        confidence: mean confidence in each bin ``[bins]``, NaN where the bin is empty.
        accuracy: share right in each bin ``[bins]``, NaN where the bin is empty.
        counts: predictions in each bin ``[bins]``, over all seeds.
        ece: expected calibration error, mean over seeds, in [0, 1].
        floor: what a perfectly calibrated model stays below in 95 % of draws of as many samples.
    """

    label: str
    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray
    ece: float
    floor: float


@dataclass(frozen=True)
class Fidelity:
    """How an arm's students agree with the teacher. Shares in [0, 1].

    Attributes:
        arm: the arm.
        agreement: same answer as the teacher, over seeds.
        on_errors: same answer as the teacher where the teacher is wrong, over seeds.
        num_errors: teacher errors among the test samples (of the first seed).
        right: mean shares of samples on which both, only the teacher, only the student, neither
            is right.
        borrowed: see :class:`Answers`.
    """

    arm: Arm
    agreement: Estimate
    on_errors: Estimate
    num_errors: int
    right: tuple[float, float, float, float]
    borrowed: bool


@dataclass(frozen=True)
class ClassAccuracy:
    """Accuracy by class ``[classes]`` in [0, 1]: mean over seeds, NaN for a class without samples.

    Attributes:
        label: whose.
        index: colour index of the arm; None for the teacher.
        accuracy: shares right.
    """

    label: str
    index: int | None
    accuracy: np.ndarray


def answers(record: RunRecord) -> Answers | None:
    """Return a run's labelled test answers; None for other tasks or without predictions.

    Raises:
        DataError: predictions.safetensors is damaged.
    """
    arrays = record.predictions
    if record.task != "classification" or arrays is None or "targets" not in arrays:
        return None
    targets = arrays["targets"]
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        return None
    logits, teacher = arrays["student_logits"], arrays.get("teacher_logits")
    kept = (targets >= 0) & (targets < logits.shape[1]) & np.isfinite(logits).all(axis=1)
    if not kept.any():
        return None
    return Answers(logits[kept], targets[kept], None if teacher is None else teacher[kept])


def answers_of(arm: Arm, evidence: Evidence) -> list[Answers]:
    """Return the answers of an arm's runs, teachers borrowed from the same seed where needed."""
    found = []
    for run in arm.runs:
        own = answers(run)
        if own is not None:
            found.append(own if own.teacher is not None else _borrow(own, run.seed, evidence))
    return found


def _borrow(own: Answers, seed: int, evidence: Evidence) -> Answers:
    for arm in evidence.finished:
        for run in arm.runs:
            other = answers(run) if run.seed == seed else None
            if other is None or other.teacher is None:
                continue
            if np.array_equal(other.targets, own.targets):
                return Answers(own.student, own.targets, other.teacher, borrowed=True)
    return own


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponential = np.exp(shifted)
    return np.asarray(exponential / exponential.sum(axis=-1, keepdims=True))


def reliability(
    label: str, parts: Sequence[tuple[np.ndarray, np.ndarray]], num_bins: int = NUM_BINS
) -> Reliability:
    """Return the reliability diagram of several seeds together.

    Args:
        label: whose diagram it is.
        parts: for each seed logits ``[samples, classes]`` and targets ``[samples]``.
        num_bins: equal-width bins over [0, 1]; default 15.
    """
    import torch

    from limbeck.functional.calibration import expected_calibration_error, reliability_bins

    probs = [torch.from_numpy(softmax(logits)) for logits, _ in parts]
    labels = [torch.from_numpy(targets.astype(np.int64)) for _, targets in parts]
    errors = [
        float(expected_calibration_error(p, t, num_bins=num_bins))
        for p, t in zip(probs, labels, strict=True)
    ]
    bins = reliability_bins(torch.cat(probs), torch.cat(labels), num_bins=num_bins)
    return Reliability(
        label=label,
        confidence=bins.confidence.numpy(),
        accuracy=bins.accuracy.numpy(),
        counts=bins.count.numpy(),
        ece=float(np.mean(errors)),
        floor=float(np.mean([calibrated_floor(p.amax(1).numpy(), num_bins) for p in probs])),
    )


def calibrated_floor(confidence: np.ndarray, num_bins: int = NUM_BINS, draws: int = 200) -> float:
    """Return the 95 % quantile of the ECE of a model whose confidences are true.

    Consistency resampling (Bröcker and Smith 2007): right or wrong is drawn from the confidences,
    with a fixed seed. An ECE below this floor is no evidence of miscalibration.

    Args:
        confidence: largest probability of each sample ``[samples]``.
        num_bins: equal-width bins (low, high] over [0, 1]; default 15.
        draws: how many times; default 200.
    """
    rng = np.random.default_rng(0)
    place = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    found = []
    for _ in range(draws):
        excess = (rng.random(len(confidence)) < confidence) - confidence
        gaps = np.bincount(place, weights=excess, minlength=num_bins)
        found.append(np.abs(gaps).sum() / len(confidence))
    return float(np.quantile(found, 0.95))


def fidelity(arm: Arm, found: Sequence[Answers]) -> Fidelity | None:
    """Return how an arm agrees with its teacher; None where no seed has a teacher's answers."""
    agreement, on_errors, quarters, errors = [], [], [], []
    for one in found:
        if one.teacher is None:
            continue
        student, teacher = one.student.argmax(axis=1), one.teacher.argmax(axis=1)
        same, student_right = student == teacher, student == one.targets
        teacher_right = teacher == one.targets
        agreement.append(float(same.mean()))
        errors.append(int((~teacher_right).sum()))
        on_errors.append(float(same[~teacher_right].mean()) if errors[-1] else math.nan)
        quarters.append(
            [
                float((teacher_right & student_right).mean()),
                float((teacher_right & ~student_right).mean()),
                float((~teacher_right & student_right).mean()),
                float((~teacher_right & ~student_right).mean()),
            ]
        )
    if not agreement:
        return None
    both, teacher_only, student_only, neither = np.mean(quarters, axis=0).tolist()
    return Fidelity(
        arm=arm,
        agreement=estimate(agreement),
        on_errors=estimate(value for value in on_errors if math.isfinite(value)),
        num_errors=errors[0],
        right=(both, teacher_only, student_only, neither),
        borrowed=any(one.borrowed for one in found),
    )


def class_accuracy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return accuracy by class ``[classes]``; NaN for a class without samples."""
    num_classes = logits.shape[1]
    right = (logits.argmax(axis=1) == targets).astype(np.float64)
    totals = np.bincount(targets, minlength=num_classes)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.bincount(targets, weights=right, minlength=num_classes) / totals)


def mean_class_accuracy(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return accuracy by class, averaged over seeds (the test set is the same for all)."""
    return np.asarray(np.mean([class_accuracy(*part) for part in parts], axis=0))


def hardest(rows: Sequence[ClassAccuracy], num: int = 10) -> list[int]:
    """Return the classes with the lowest accuracy averaged over the arms, hardest first.

    The average treats the arms alike: classes chosen as hard for one arm would seem to improve in
    every other by chance alone.
    """
    arms = [row.accuracy for row in rows if row.index is not None]
    average = np.mean(arms or [row.accuracy for row in rows], axis=0)
    order = np.argsort(average, kind="stable")
    return [int(i) for i in order if math.isfinite(average[i])][:num]
