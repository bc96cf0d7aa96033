"""The headline: what came of it, in one honest sentence; and what to mind when reading."""

from __future__ import annotations

from limbeck.reports.evidence import Arm, Evidence, TeacherEvidence
from limbeck.reports.formats import (
    Metric,
    count_of,
    join_words,
    number,
    ratio,
    show,
    show_difference,
)
from limbeck.reports.reading import mapping
from limbeck.studies.statistics import Comparison, proportion_interval


def headline(evidence: Evidence) -> str:
    """Return what was done and what came of it.

    With several arms the best one on the main metric is compared with the baseline, among those
    with a student as large as its own (all, where there is none: capacity was varied); it
    says "cannot be told apart" wherever the interval of the difference includes 0.
    """
    finished = evidence.finished
    if not finished:
        num = len(evidence.records)
        return "The run is not finished." if num == 1 else f"None of {num} runs is finished."
    if evidence.baseline is None:
        return _one_arm(evidence, finished[0])
    best = best_arm(evidence)
    if best is None:
        return f"{join_words([arm.label for arm in finished])} have no metric in common."
    text = _compared(evidence, best, evidence.comparisons[best.label])
    compared = len(_candidates(evidence))
    rivals = [arm for arm in finished if arm is not evidence.baseline and arm.like(best)]
    if compared == len(rivals):
        return text if compared == 1 else f"Best of {compared} arms: {text}"
    shared = f"with a seed in common with {evidence.baseline.label}"
    lead = f"The only arm {shared}" if compared == 1 else f"Best of the {compared} arms {shared}"
    return f"{lead}: {text}"


def _candidates(evidence: Evidence) -> list[Arm]:
    """Return the arms that share a seed with the baseline, and a size of student if any does."""
    base = evidence.baseline
    shared = [
        arm
        for arm in evidence.finished
        if arm.label in evidence.comparisons and evidence.comparisons[arm.label].difference.num
    ]
    return [arm for arm in shared if base is not None and arm.like(base)] or shared


def best_arm(evidence: Evidence) -> Arm | None:
    """Return the arm with the best mean on the main metric, the baseline left out."""
    sign = -1 if evidence.metric.higher_is_better is False else 1
    arms = [
        (sign * evidence.comparisons[arm.label].difference.mean, -arm.index, arm)
        for arm in _candidates(evidence)
    ]
    return max(arms, key=lambda entry: entry[:2])[2] if arms else None


def _compared(evidence: Evidence, arm: Arm, comparison: Comparison) -> str:
    metric, base = evidence.metric, evidence.baseline
    assert base is not None
    difference = comparison.difference
    before = _mean(evidence, base, comparison.seeds)
    after = _mean(evidence, arm, comparison.seeds)
    unit = " %" if metric.unit == "percent" else ""
    seeds = count_of(difference.num, "seed")
    change = f"({show_difference(metric, difference.mean, difference.half_width)}, {seeds})"
    names = f"the student’s {metric.phrase}"
    between = f"from {_value(metric, before)} to {_value(metric, after)}{unit} {change}"
    if not difference.has_interval:
        text = f"{arm.label} against {base.label}: {names} goes {between}; one seed tells no more"
    elif difference.contains(0.0) or comparison.p_holm >= 1 - difference.confidence:
        text = (
            f"{arm.label} and {base.label} cannot be told apart in {names}: "
            f"{_value(metric, after)} against {_value(metric, before)}{unit} {change}"
        )
    else:
        verb = "raises" if difference.mean > 0 else "lowers"
        better = (difference.mean > 0) == (metric.higher_is_better is not False)
        if metric.higher_is_better is not None and metric.unit == "percent":
            verb = "lifts" if better else verb
        text = f"{arm.label} {verb} {names} {between}"
    return text + _at_cost(evidence, arm) + "."


def _mean(evidence: Evidence, arm: Arm, seeds: tuple[int, ...]) -> float:
    values = arm.values(evidence.metric.key, evidence.split)
    return sum(values[seed] for seed in seeds) / len(seeds)


def _value(metric: Metric, value: float) -> str:
    return show(metric, value)


def _at_cost(evidence: Evidence, arm: Arm) -> str:
    """Return ", at 1/14 of the teacher's parameters" where both sizes are known and one teacher."""
    teacher, size = _only_teacher(evidence, arm), arm.cost("parameters")
    whole = None if teacher is None else teacher.cost("parameters")
    if not size or not whole:
        return ""
    return f", at {ratio(size, whole)} {'' if size > whole else 'of '}the teacher’s parameters"


def _only_teacher(evidence: Evidence, arm: Arm) -> TeacherEvidence | None:
    """Return the teacher that this arm learned from; None where there is none or several."""
    mine = [
        teacher
        for teacher in evidence.teachers
        if any(run is own for run in teacher.runs for own in arm.runs)
    ]
    return mine[0] if len(mine) == 1 else None


def _one_arm(evidence: Evidence, arm: Arm) -> str:
    metric = evidence.metric
    found = arm.estimate(metric.key, evidence.split)
    if not found.num:
        return f"{arm.label} has finished, without a metric on test or validation."
    unit = " %" if metric.unit == "percent" else ""
    seeds = count_of(found.num, "seed")
    where = "" if evidence.split == "test" else " on validation"
    text = f"{arm.label}: the student reaches {show(metric, found.mean, found.half_width)}{unit}"
    text += f" {metric.phrase}{where} ({seeds})"
    teacher = _only_teacher(evidence, arm)
    if teacher is not None:
        theirs = teacher.estimate(metric.key, evidence.split)
        if theirs.num:
            text += f", against the teacher’s {show(metric, theirs.mean, theirs.half_width)}{unit}"
    return text + _at_cost(evidence, arm) + "."


def cautions(evidence: Evidence) -> list[str]:
    """Return what to mind when reading: what is unfinished, unequal, too few or too small."""
    found = []
    for arm in evidence.arms:
        for run in arm.unfinished:
            epochs = 1 + max((int(r.get("epoch", 0)) for r in run.rows("epoch")), default=-1)
            found.append(
                f"{run.path.name} ({arm.label}, seed {run.seed}) is {run.status} after "
                f"{count_of(epochs, 'epoch')}: shown here, counted nowhere."
            )
        for run in arm.replaced:
            found.append(
                f"{run.path.name} repeats seed {run.seed} of {arm.label}: the later run counts."
            )
    found += [f"{run.path.name}: {note}." for run in evidence.records for note in run.notes]
    found += [*_few_seeds(evidence), *_other_students(evidence)]
    found += [*_unequal(evidence), *_selection(evidence)]
    found += _test_size(evidence)
    return found


def _few_seeds(evidence: Evidence) -> list[str]:
    single = [arm.label for arm in evidence.finished if len(arm.runs) == 1]
    if not single:
        return []
    return [
        f"{join_words(single)}: one seed, so nothing says how much of it is chance. Five seeds give"
        " an interval of 1.24 standard deviations to either side."
    ]


def _other_students(evidence: Evidence) -> list[str]:
    """Say which arms trained a student of another size than the baseline's."""
    base = evidence.baseline
    others = [arm.label for arm in evidence.finished if base is not None and not arm.like(base)]
    if base is None or not others:
        return []
    have = "has a student" if len(others) == 1 else "have students"
    return [
        f"{join_words(others)} {have} of another size than {base.label}’s: Δ is then between "
        "networks, not between methods."
    ]


def _unequal(evidence: Evidence) -> list[str]:
    """Say where arms differ in what should be equal: data, samples seen."""
    found = []
    data = {repr(_data_settings(arm)) for arm in evidence.arms}
    told = {repr(arm.example.summary.get("data")) for arm in evidence.arms}
    # A run from Python knows the name of its data only; what became of them is in its summary.
    python = any("python" in mapping(arm.example.recipe, "student") for arm in evidence.arms)
    if len(data) > 1 and not (python and len(told) == 1):
        found.append("The arms were not trained on the same data settings; see below.")
    seen: dict[str, float] = {}
    for arm in evidence.finished:
        values = [run.summary.get("samples_seen") for run in arm.runs]
        numbers = [float(value) for value in values if isinstance(value, int | float)]
        if numbers:
            seen[arm.label] = sum(numbers) / len(numbers)
    if seen and max(seen.values()) > 1.01 * min(seen.values()):
        texts = [f"{label} {number(value, 0)}" for label, value in seen.items()]
        steps = {run.summary.get("steps") for arm in evidence.finished for run in arm.runs}
        lead = "Unequal budgets, in samples seen"
        if len(steps) == 1 and isinstance(num := steps.pop(), int):
            lead = f"Equal optimiser steps ({num:,}), but unequal samples seen"
        found.append(f"{lead}: {join_words(texts)}.")
    return found


def _data_settings(arm: Arm) -> dict[str, object]:
    return {k: v for k, v in arm.example.settings.items() if k.split(".", 1)[0] == "data"}


def _selection(evidence: Evidence) -> list[str]:
    num = len(_candidates(evidence))
    if num < 2:
        return []
    return [
        f"The headline names the best of {num} arms on the {evidence.split} set itself, which"
        " flatters it a little: the p-values in the table are corrected for it, its interval not."
    ]


def _test_size(evidence: Evidence) -> list[str]:
    """Say how large the sampling error of one accuracy is on a test set of this size."""
    if evidence.metric.key != "accuracy" or evidence.split != "test":
        return []
    for arm in evidence.finished:
        for run in arm.runs:
            size = _num_test(run.summary.get("data"), run.predictions)
            share = run.metric("accuracy")
            if size and share is not None:
                low, high = proportion_interval(round(min(max(share, 0), 1) * size), size)
                return [
                    f"The test set has {size:,} samples: on new data of the same kind a single "
                    f"accuracy may lie about {number(50 * (high - low), 1)} points to either side, "
                    "beside the spread over seeds that the intervals show."
                ]
    return []


def _num_test(data: object, predictions: object) -> int | None:
    logits = predictions.get("student_logits") if isinstance(predictions, dict) else None
    if logits is not None:
        return len(logits)
    size = mapping({"data": data}, "data").get("test")
    return size if isinstance(size, int) and size > 0 else None
