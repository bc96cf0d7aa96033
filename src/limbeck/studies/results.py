"""Results of a study, from its run folders alone: numbers, verdicts, what is missing."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.engine.evaluate import HIGHER_IS_BETTER
from limbeck.errors import LimbeckError
from limbeck.studies.choosing import Tried, choose, tried, why_none
from limbeck.studies.folder import StudyFolder, claim_record
from limbeck.studies.planning import PlannedArm, StudyPlan, Trial
from limbeck.studies.relations import Related, relate_all
from limbeck.studies.schema import TEACHER, Claim
from limbeck.studies.statistics import Comparison, Estimate, Pair, compare_pairs, estimate

FORMAT = 1
_TRAIN = "train_"
_ENVIRONMENT = ("limbeck", "python", "torch", "machine", "device", "threads")


@dataclass(frozen=True)
class ArmResults:
    """An arm at one place of the grid.

    Attributes:
        planned: the arm.
        trials: what was tried, with validation means; none where nothing was to be chosen.
        chosen: the trial that went on; None where none could.
        folders: seed -> run folder, of finished runs.
        summaries: seed -> summary.json, of finished runs.
        missing: seeds without a finished run that did not fail either.
        failed: what failed, trials included: label -> reason.
    """

    planned: PlannedArm
    trials: tuple[Tried, ...]
    chosen: Trial | None
    folders: Mapping[int, Path]
    summaries: Mapping[int, Mapping[str, Any]]
    missing: tuple[int, ...]
    failed: Mapping[str, str]

    @property
    def label(self) -> str:
        """Name in tables."""
        return self.planned.label

    def values(self, metric: str) -> dict[int, float]:
        """Return seed -> test metric, where it was measured; ``train_…``: on the training part."""
        key = metric.removeprefix(_TRAIN)
        split = "test" if key == metric else "train"
        found = {}
        for seed, summary in self.summaries.items():
            value = summary.get("metrics", {}).get(split, {}).get(key)
            if isinstance(value, int | float) and not isinstance(value, bool):
                found[seed] = float(value)
        return found

    def estimate(self, metric: str) -> Estimate:
        """Return mean and interval of a test metric over seeds."""
        return estimate(self.values(metric).values())

    def teacher_values(self, metric: str) -> dict[int, float]:
        """Return seed -> test metric of the arm's first teacher, where it has one."""
        found = {}
        for seed, summary in self.summaries.items():
            for facts in summary.get("teachers", {}).values():
                value = facts.get("metrics", {}).get("test", {}).get(metric)
                if isinstance(value, int | float):
                    found[seed] = float(value)
                break
        return found

    def teacher(self, metric: str) -> float | None:
        """Return the mean test metric of the arm's first teacher; None without one."""
        found = self.teacher_values(metric).values()
        return math.fsum(found) / len(found) if found else None

    def middle(self, key: str) -> float | None:
        """Return the median over seeds of a number in the summary (``seconds``, ``steps``, …)."""
        found = [s[key] for s in self.summaries.values() if isinstance(s.get(key), int | float)]
        return float(statistics.median(found)) if found else None


@dataclass(frozen=True)
class Judged:
    """A comparison and its verdict.

    Attributes:
        claim_name: name of the claim.
        claim: the claim.
        arm: label of the arm.
        baseline: label of the arm that it is compared with.
        comparison: difference, p-values and verdict.
        beforehand: whether the claim stood as it is before the first run.
    """

    claim_name: str
    claim: Claim
    arm: str
    baseline: str
    comparison: Comparison
    beforehand: bool

    @property
    def verdict(self) -> str:
        """The verdict; none on a claim that was written down after runs had begun."""
        if not self.beforehand:
            return "none: written down after the runs"
        if not self.comparison.seeds:
            return "none: no seed of both is finished"
        return self.comparison.verdict or ""


@dataclass(frozen=True)
class StudyResults:
    """All that a study came to.

    Attributes:
        plan: the study.
        folder: where its runs lie.
        arms: every arm at every place of the grid, in order.
        judged: every comparison, in order.
        related: every relation between teachers and students, in order.
        claims_written: when the claims were written down; empty: never.
        environment: of the runs; values that differ are joined.
    """

    plan: StudyPlan
    folder: Path
    arms: tuple[ArmResults, ...]
    judged: tuple[Judged, ...]
    related: tuple[Related, ...]
    claims_written: str
    environment: Mapping[str, str]

    @property
    def has_runs(self) -> bool:
        """Whether any run that counts is finished."""
        return any(arm.summaries for arm in self.arms)

    @property
    def failed(self) -> dict[str, str]:
        """What failed, in all arms: label -> reason."""
        return {label: reason for arm in self.arms for label, reason in arm.failed.items()}

    @property
    def missing(self) -> dict[str, tuple[int, ...]]:
        """Seeds without a finished run, by arm."""
        return {arm.label: arm.missing for arm in self.arms if arm.missing}

    def as_json(self) -> dict[str, Any]:
        """Return all numbers as plain data: small, without a path, fit to be committed."""
        study = self.plan.study
        return {
            "format": FORMAT,
            "study": study.name,
            "scale": self.plan.loaded.scale,
            "metric": study.metric,
            "seeds": list(study.seeds),
            "trials": len(self.plan.arms[0].trials),
            "tuning": {"seeds": list(study.tuning.seeds), "metric": study.tuning.metric},
            "claims_written": self.claims_written,
            "arms": [_arm_json(arm) for arm in self.arms],
            "comparisons": [_judged_json(one) for one in self.judged],
            **({"relations": self._relations_json()} if self.related else {}),
            "failed": self.failed,
            "missing": {label: list(seeds) for label, seeds in self.missing.items()},
            "environment": dict(self.environment),
        }

    def _relations_json(self) -> dict[str, Any]:
        taught = {one.label: one for related in self.related for one in related.taught}
        return {
            "teachers": {
                label: {name: _number(value) for name, value in one.teacher.items()}
                for label, one in taught.items()
            },
            "claims": [one.as_json() for one in self.related],
        }


def study_results(plan: StudyPlan, folder: StudyFolder) -> StudyResults:
    """Read the run folders and work out everything.

    Raises:
        DataError: the record of the claims is damaged.
    """
    arms = tuple(_arm(plan, arm, folder) for arm in plan.arms)
    written, before = folder.written_down()
    return StudyResults(
        plan=plan,
        folder=folder.path,
        arms=arms,
        judged=_judge(plan, arms, before),
        related=relate_all(plan.study, arms, before),
        claims_written=written,
        environment=_environment(arms),
    )


def _arm(plan: StudyPlan, arm: PlannedArm, folder: StudyFolder) -> ArmResults:
    trials = tuple(tried(plan, arm, folder)) if plan.is_tuned else ()
    chosen = choose(plan, arm, folder)
    failed = {f"{arm.label}, trial {one.trial.label}": one.reason for one in trials if one.reason}
    folders, summaries, missing = {}, {}, []
    for seed in plan.study.seeds:
        run = None if chosen is None else chosen.run(seed)
        summary = None if run is None else folder.finished(run)
        if run is not None and summary is not None:
            folders[seed], summaries[seed] = folder.place(run), summary
        elif run is not None and (reason := folder.failure(run)) is not None:
            failed[f"{arm.label}, seed {seed}"] = reason
        elif not why_none(plan, arm, folder) or not plan.is_tuned:
            missing.append(seed)
    return ArmResults(arm, trials, chosen, folders, summaries, tuple(missing), failed)


def _judge(plan: StudyPlan, arms: tuple[ArmResults, ...], before: list[Any]) -> tuple[Judged, ...]:
    """Compare what the study compares, at every place of the grid that is meant."""
    study = plan.study
    by_place = {(arm.planned.name, *sorted(arm.planned.cell.items())): arm for arm in arms}
    cells = list({tuple(sorted(arm.planned.cell.items())): None for arm in arms})
    found = [
        (index, by_place[(pair.arm, *cell)], by_place.get((pair.baseline, *cell)))
        for index, pair in enumerate(study.compare)
        for cell in cells
        if pair.at.items() <= dict(cell).items()
    ]
    claims = [study.claims[study.compare[index].claim] for index, _, _ in found]
    pairs = [
        Pair(
            arm.values(claim.metric),
            arm.teacher_values(claim.metric) if baseline is None else baseline.values(claim.metric),
            smallest_effect=claim.smallest_effect,
            higher_is_better=HIGHER_IS_BETTER[claim.metric],
            direction=claim.direction,
        )
        for (_, arm, baseline), claim in zip(found, claims, strict=True)
    ]
    return tuple(
        Judged(
            claim_name=study.compare[index].claim,
            claim=claim,
            arm=arm.label,
            baseline=TEACHER if baseline is None else baseline.label,
            comparison=comparison,
            beforehand=claim_record(study, index) in before,
        )
        for (index, arm, baseline), claim, comparison in zip(
            found, claims, compare_pairs(pairs), strict=True
        )
    )


def _environment(arms: tuple[ArmResults, ...]) -> dict[str, str]:
    found: dict[str, dict[str, None]] = {}
    for arm in arms:
        for folder in arm.folders.values():
            try:
                facts = json.loads((folder / "environment.json").read_text())
            except (OSError, ValueError, LimbeckError):
                continue
            for key in _ENVIRONMENT:
                if facts.get(key) is not None:
                    found.setdefault(key, {})[str(facts[key])] = None
    return {key: "; ".join(values) for key, values in found.items()}


def _number(value: float | None) -> float | None:
    """Return a number fit for JSON: six digits are more than seeds can tell; None for NaN."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _arm_json(arm: ArmResults) -> dict[str, Any]:
    metrics = {key: None for s in arm.summaries.values() for key in s["metrics"].get("test", {})}
    metrics |= {key: None for key in HIGHER_IS_BETTER if key.startswith(_TRAIN) and arm.values(key)}
    return {
        "arm": arm.planned.name,
        "at": dict(arm.planned.cell),
        "reference": arm.planned.arm.reference,
        "chosen": None if arm.chosen is None else dict(arm.chosen.changes),
        "trials": [
            {"set": dict(one.trial.changes), "validation": _number(one.mean)} for one in arm.trials
        ],
        "test": {
            key: {str(seed): _number(value) for seed, value in arm.values(key).items()}
            for key in metrics
        },
        "estimate": {
            key: {"mean": _number(e.mean), "low": _number(e.low), "high": _number(e.high)}
            for key in metrics
            for e in [arm.estimate(key)]
        },
        "steps": arm.middle("steps"),
        "samples_seen": arm.middle("samples_seen"),
        "seconds": _number(arm.middle("seconds")),
    }


def _judged_json(one: Judged) -> dict[str, Any]:
    difference = one.comparison.difference
    return {
        "claim": one.claim_name,
        "arm": one.arm,
        "baseline": one.baseline,
        "metric": one.claim.metric,
        "direction": one.claim.direction,
        "smallest_effect": one.claim.smallest_effect,
        "seeds": list(one.comparison.seeds),
        "difference": _number(difference.mean),
        "low": _number(difference.low),
        "high": _number(difference.high),
        "p": _number(one.comparison.p_value),
        "p_holm": _number(one.comparison.p_holm),
        "verdict": one.verdict,
    }
