"""Agreement, calibration and classes against naive counting."""

import numpy as np
import pytest

from limbeck.reports.evidence import Arm
from limbeck.reports.predictions import (
    Answers,
    ClassAccuracy,
    calibrated_floor,
    class_accuracy,
    fidelity,
    hardest,
    reliability,
    softmax,
)


def answers(seed: int, n: int = 200, classes: int = 4) -> Answers:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, n)
    signal = 2 * np.eye(classes)[targets]
    return Answers(
        (signal + rng.normal(size=(n, classes))).astype(np.float32),
        targets,
        (signal + rng.normal(size=(n, classes))).astype(np.float32),
    )


def test_fidelity_counts_who_is_right() -> None:
    one = answers(0)
    found = fidelity(Arm("kd", 1, ()), [one])
    assert found is not None
    assert one.teacher is not None
    counts = {"both": 0, "teacher": 0, "student": 0, "neither": 0}
    same = errors = same_on_errors = 0
    for student, teacher, target in zip(one.student, one.teacher, one.targets, strict=True):
        s, t = int(np.argmax(student)), int(np.argmax(teacher))
        same += s == t
        errors += t != target
        same_on_errors += t != target and s == t
        right = (s == target, t == target)
        name = {(1, 1): "both", (0, 1): "teacher", (1, 0): "student", (0, 0): "neither"}[right]
        counts[name] += 1
    assert found.agreement.mean == pytest.approx(same / 200)
    assert found.num_errors == errors
    assert found.on_errors.mean == pytest.approx(same_on_errors / errors)
    assert found.right == pytest.approx([counts[name] / 200 for name in counts])


def test_fidelity_needs_a_teacher_and_survives_one_without_errors() -> None:
    one = answers(1)
    assert fidelity(Arm("kd", 1, ()), [Answers(one.student, one.targets)]) is None
    perfect = Answers(one.student, one.targets, np.eye(4, dtype=np.float32)[one.targets])
    found = fidelity(Arm("kd", 1, ()), [perfect])
    assert found is not None
    assert found.num_errors == 0
    assert found.on_errors.num == 0


def test_reliability_bins_by_naive_counting() -> None:
    parts = [(one.student, one.targets) for one in (answers(2), answers(3))]
    found = reliability("kd", parts)
    probs = np.concatenate([softmax(logits) for logits, _ in parts])
    targets = np.concatenate([targets for _, targets in parts])
    for b in range(15):
        inside = [i for i, p in enumerate(probs) if b / 15 < max(p) <= (b + 1) / 15]
        assert found.counts[b] == len(inside)
        if inside:
            share = np.mean([np.argmax(probs[i]) == targets[i] for i in inside])
            assert found.accuracy[b] == pytest.approx(share)
            assert found.confidence[b] == pytest.approx(np.mean([max(probs[i]) for i in inside]))
    assert found.counts.sum() == 400


def test_the_floor_is_where_calibrated_models_stay_below() -> None:
    rng = np.random.default_rng(4)
    confidence = rng.uniform(0.3, 1, 500)
    floor = calibrated_floor(confidence)
    below = 0
    for _ in range(200):
        right = rng.random(500) < confidence
        place = np.ceil(confidence * 15)
        ece = sum(abs((right - confidence)[place == b].sum()) for b in range(1, 16)) / 500
        below += ece <= floor
    assert 0.88 <= below / 200 <= 1.0
    assert calibrated_floor(np.ones(50)) == 0.0


def test_class_accuracy_and_the_hardest_classes() -> None:
    logits = np.eye(3)[[0, 0, 1, 2, 1]]
    found = class_accuracy(logits, np.array([0, 1, 1, 1, 1]))
    assert found[0] == 1.0
    assert found[1] == 0.5
    assert np.isnan(found[2])
    rows = [
        ClassAccuracy("teacher", None, np.array([0.1, 0.9, 0.9, np.nan])),
        ClassAccuracy("a", 0, np.array([0.9, 0.2, 0.8, np.nan])),
        ClassAccuracy("b", 1, np.array([0.9, 0.8, 0.1, np.nan])),
    ]
    assert hardest(rows) == [2, 1, 0]  # by the mean of the arms: .45, .5, .9
    assert hardest(rows, 1) == [2]
