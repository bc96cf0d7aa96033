"""Evidence: run records gathered into arms, teachers and comparisons."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from limbeck.errors import DataError, unknown
from limbeck.reports.formats import COSTS, METRICS, PRIMARY, Metric, metric_of
from limbeck.reports.reading import RunRecord, mapping
from limbeck.studies.statistics import Comparison, Estimate, compare, estimate, group_by_arm


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seed only.

    Attributes:
        label: name in tables and plots.
        index: decides the colour: 0 for the baseline, 1, 2 … for the others.
        runs: finished runs, one for each seed, ordered by seed.
        unfinished: runs that did not finish; shown, never counted.
        replaced: finished runs whose seed a later run repeats; shown, never counted.
    """

    label: str
    index: int
    runs: tuple[RunRecord, ...]
    unfinished: tuple[RunRecord, ...] = ()
    replaced: tuple[RunRecord, ...] = ()

    @property
    def example(self) -> RunRecord:
        """A run to read the settings from."""
        return (self.runs or self.unfinished)[0]

    @property
    def has_teacher(self) -> bool:
        """Whether any run of the arm names a teacher."""
        runs = (*self.runs, *self.unfinished)
        return any(
            run.summary.get("teachers") or run.recipe.get("teachers") or run.recipe.get("teacher")
            for run in runs
        )

    def like(self, other: Arm) -> bool:
        """Whether the students of both are equally large, as far as that is known."""
        mine, theirs = self.cost("parameters"), other.cost("parameters")
        return mine is None or theirs is None or mine == theirs

    def values(self, key: str, split: str) -> dict[int, float]:
        """Return seed -> final metric, for the seeds that have it."""
        found = {run.seed: run.metric(key, split) for run in self.runs}
        return {seed: value for seed, value in found.items() if value is not None}

    def estimate(self, key: str, split: str) -> Estimate:
        """Return mean and interval of a metric over seeds."""
        return estimate(self.values(key, split).values())

    def cost(self, key: str) -> float | None:
        """Return the median over seeds of ``parameters``, ``flops`` or ``latency_ms``."""
        found = [value for run in self.runs if (value := run.student(key)) is not None]
        return statistics.median(found) if found else None


@dataclass(frozen=True)
class TeacherEvidence:
    """One teacher, as the runs that used it measured it.

    Attributes:
        label: name in tables and plots.
        key: name under which the runs know it.
        runs: finished runs that used it.
    """

    label: str
    key: str
    runs: tuple[RunRecord, ...]

    def estimate(self, metric: str, split: str) -> Estimate:
        """Return the teacher's metric; an interval only where seeds had teachers of their own."""
        by_seed: dict[int, float] = {}
        for run in self.runs:
            value = run.teacher_metric(self.key, metric, split)
            if value is not None:
                by_seed.setdefault(run.seed, value)
        same = max(by_seed.values(), default=0.0) - min(by_seed.values(), default=0.0) < 1e-9
        return estimate(list(by_seed.values())[:1] if same else by_seed.values())

    def cost(self, key: str) -> float | None:
        """Return the median over runs of ``parameters``, ``flops`` or ``latency_ms``."""
        values = [mapping(run.summary, "teachers", self.key).get(key) for run in self.runs]
        found = [float(value) for value in values if isinstance(value, int | float)]
        return statistics.median(found) if found else None


@dataclass(frozen=True)
class Evidence:
    """Everything a table or report is made from.

    Attributes:
        records: all records, in the order given.
        arms: the baseline first, then the others in order of first appearance.
        teachers: teachers of the finished runs.
        metric: the metric that the report is about.
        split: ``test``, or ``validation`` where no run has a test metric.
        baseline: the arm the others are compared with; None with fewer than two finished arms.
        comparisons: arm label -> comparison on ``metric``.
        smallest_effect: smallest improvement that matters, in the metric's kept unit; None: not
            written down, so no verdicts.
    """

    records: tuple[RunRecord, ...]
    arms: tuple[Arm, ...]
    teachers: tuple[TeacherEvidence, ...]
    metric: Metric
    split: str
    baseline: Arm | None
    comparisons: Mapping[str, Comparison]
    smallest_effect: float | None = None

    @property
    def finished(self) -> tuple[Arm, ...]:
        """The arms with at least one finished run."""
        return tuple(arm for arm in self.arms if arm.runs)

    @property
    def task(self) -> str:
        """Kind of the task of the first run."""
        return self.records[0].task

    def quality(self) -> list[Metric]:
        """Return the quality metrics that any arm has, the main one first."""
        known = [metric for metric in METRICS.values() if self._measured(metric.key)]
        rest = [metric for metric in known if metric.key != self.metric.key]
        return [self.metric, *rest] if self._measured(self.metric.key) else rest

    def costs(self) -> list[Metric]:
        """Return the costs that any arm or teacher has."""
        rows: tuple[Arm | TeacherEvidence, ...] = (*self.finished, *self.teachers)
        return [m for m in COSTS.values() if any(row.cost(m.key) is not None for row in rows)]

    def _measured(self, key: str) -> bool:
        return any(arm.values(key, self.split) for arm in self.finished)


def gather(
    records: Sequence[RunRecord],
    *,
    baseline: str | None = None,
    metric: str | None = None,
    smallest_effect: float | None = None,
) -> Evidence:
    """Gather records into evidence.

    Args:
        records: run records, at least one.
        baseline: label of the arm to compare with; None: the first arm without a teacher whose
            student is as large as one that has a teacher (the run that made the teacher is no
            baseline), else the first arm with one; the first of all where no arm has a teacher.
        metric: key of the main metric; None: accuracy, map, f1, r2 … whichever comes first.
        smallest_effect: smallest improvement that matters, > 0, in the metric's kept unit (0.01 is
            one point of accuracy); None: no verdicts.

    Raises:
        DataError: no records, or ``baseline`` or ``metric`` is not among them.
    """
    if not records:
        raise DataError("no runs to report on: name at least one run folder")
    arms = _arms(records)
    chosen, split = _main_metric([arm for arm in arms if arm.runs], metric)
    base = _baseline([arm for arm in arms if arm.runs], baseline)
    arms, base = _ordered(arms, base)
    finished = [arm for arm in arms if arm.runs]
    comparisons = {}
    if base is not None:
        values = {arm.label: arm.values(chosen.key, split) for arm in finished}
        comparisons = compare(
            values,
            base.label,
            smallest_effect=smallest_effect,
            higher_is_better=chosen.higher_is_better is not False,
        )
    return Evidence(
        records=tuple(records),
        arms=arms,
        teachers=_teachers(finished),
        metric=chosen,
        split=split,
        baseline=base,
        comparisons=comparisons,
        smallest_effect=smallest_effect,
    )


def _arms(records: Iterable[RunRecord]) -> tuple[Arm, ...]:
    arms = []
    for label, runs in group_by_arm(records).items():
        latest: dict[int, RunRecord] = {run.seed: run for run in runs if run.done}
        kept = tuple(latest[seed] for seed in sorted(latest))
        arms.append(
            Arm(
                label=label,
                index=0,
                runs=kept,
                unfinished=tuple(run for run in runs if not run.done),
                replaced=tuple(r for r in runs if r.done and all(r is not k for k in kept)),
            )
        )
    return tuple(arms)


def _ordered(arms: Sequence[Arm], base: Arm | None) -> tuple[tuple[Arm, ...], Arm | None]:
    """Put the baseline first and number the arms; without a baseline numbers start at 1."""
    ordered = sorted(arms, key=lambda arm: arm is not base)
    start = 0 if base is not None else 1
    numbered = tuple(replace(arm, index=i) for i, arm in enumerate(ordered, start=start))
    return numbered, numbered[0] if base is not None else None


def _main_metric(arms: Sequence[Arm], metric: str | None) -> tuple[Metric, str]:
    measured = {
        split: {
            key
            for arm in arms
            for run in arm.runs
            for key in mapping(run.summary, "metrics", split)
        }
        for split in ("test", "validation")
    }
    if metric is not None:
        for split, keys in measured.items():
            if metric in keys:
                return metric_of(metric), split
        raise DataError(unknown("metric", metric, set().union(*measured.values())))
    for split, keys in measured.items():
        for key in (*PRIMARY, *sorted(keys)):
            if key in keys:
                return metric_of(key), split
    return METRICS["accuracy"], "test"


def _baseline(arms: Sequence[Arm], label: str | None) -> Arm | None:
    if label is not None:
        for arm in arms:
            if arm.label == label:
                return arm
        raise DataError(unknown("baseline", label, [arm.label for arm in arms]))
    if len(arms) < 2:
        return None
    taught = [arm for arm in arms if arm.has_teacher]
    alone = [arm for arm in arms if not arm.has_teacher]
    alike = [arm for arm in alone if any(arm.like(other) for other in taught)]
    return next(iter([*alike, *taught, *arms]))


def _teachers(arms: Iterable[Arm]) -> tuple[TeacherEvidence, ...]:
    """Group teachers by name and size: two arms may call different networks "teacher"."""
    found: dict[tuple[str, float | None], list[RunRecord]] = {}
    users: dict[tuple[str, float | None], str] = {}
    for arm in arms:
        for run in arm.runs:
            for name, facts in mapping(run.summary, "teachers").items():
                key = (str(name), mapping(facts).get("parameters"))
                found.setdefault(key, []).append(run)
                users.setdefault(key, arm.label)
    names = [name for name, _ in found]
    return tuple(
        TeacherEvidence(
            label=name if names.count(name) == 1 else f"{name} of {users[name, size]}",
            key=name,
            runs=tuple(runs),
        )
        for (name, size), runs in found.items()
    )
