"""Relations: does a property of the teacher go with how its students do?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limbeck.engine.evaluate import HIGHER_IS_BETTER
from limbeck.studies import properties
from limbeck.studies.correlation import (
    Association,
    associate,
    correlation,
    explained_difference,
    partial_correlation,
)
from limbeck.studies.schema import Claim, Relate, Study
from limbeck.studies.statistics import holm, verdict

if TYPE_CHECKING:
    from limbeck.studies.results import ArmResults


@dataclass(frozen=True)
class Taught:
    """One teacher and its students.

    Attributes:
        label: the arm's, with the place of the grid.
        teacher: property -> value, on the test part; empty without a teacher.
        students: mean test metric over seeds, by metric.
    """

    label: str
    teacher: Mapping[str, float]
    students: Mapping[str, float]


@dataclass(frozen=True)
class Related:
    """A claim about teachers and its verdict.

    Attributes:
        relate: what was asked.
        claim: the claim.
        association: the statistic over teachers, positive where better goes with better.
        p_holm: its p-value after Holm's correction over all relations of the study.
        taught: the teachers that went into it.
        beforehand: whether the claim stood as it is before the first run.
    """

    relate: Relate
    claim: Claim
    association: Association
    p_holm: float
    taught: tuple[Taught, ...]
    beforehand: bool

    @property
    def verdict(self) -> str:
        """The verdict; none on a claim that was written down after runs had begun."""
        if not self.beforehand:
            return "none: written down after the runs"
        if not self.association.found.has_interval:
            return "none: too few teachers"
        return verdict(self.association.found, self.claim.smallest_effect, p_value=self.p_holm)

    def as_json(self) -> dict[str, Any]:
        """Return all numbers as plain data."""
        found = self.association.found
        return {
            "claim": self.relate.claim,
            "arm": self.relate.arm,
            "property": self.relate.property,
            "given": self.relate.given,
            "rather_than": self.relate.rather_than,
            "metric": self.claim.metric,
            "smallest_effect": self.claim.smallest_effect,
            "teachers": [one.label for one in self.taught],
            "value": _number(found.mean),
            "low": _number(found.low),
            "high": _number(found.high),
            "p": _number(self.association.p_value),
            "p_holm": _number(self.p_holm),
            "verdict": self.verdict,
        }


def taught_by(arms: Sequence[ArmResults]) -> tuple[Taught, ...]:
    """Return every arm that has a teacher and a finished run; predictions are read from disk."""
    found = []
    for arm in arms:
        if arm.folders:
            said = properties.teacher_properties(arm.folders[min(arm.folders)])
            means = {metric: arm.estimate(metric).mean for metric in HIGHER_IS_BETTER}
            known = {metric: mean for metric, mean in means.items() if math.isfinite(mean)}
            if said:
                found.append(Taught(arm.label, said, known))
    return tuple(found)


def relate_all(
    study: Study, arms: Sequence[ArmResults], before: Sequence[Any]
) -> tuple[Related, ...]:
    """Work out every relation of a study.

    Args:
        study: the study.
        arms: every arm at every place of the grid.
        before: the claims as they stood before the first run.
    """
    by_arm = {
        name: taught_by([arm for arm in arms if arm.planned.name == name])
        for name in dict.fromkeys(one.arm for one in study.relate)
    }
    claims = [study.claims[one.claim] for one in study.relate]
    found = [
        _associate(one, claim, by_arm[one.arm])
        for one, claim in zip(study.relate, claims, strict=True)
    ]
    adjusted = holm([association.p_value for association, _ in found])
    return tuple(
        Related(one, claim, association, p, taught, relate_record(study, index) in before)
        for index, (one, claim, (association, taught), p) in enumerate(
            zip(study.relate, claims, found, adjusted, strict=True)
        )
    )


def _associate(
    relate: Relate, claim: Claim, taught: Sequence[Taught]
) -> tuple[Association, tuple[Taught, ...]]:
    other = relate.given or relate.rather_than
    used = tuple(one for one in taught if claim.metric in one.students)
    x = [_signed(one.teacher[relate.property], _better(relate.property)) for one in used]
    y = [_signed(one.students[claim.metric], HIGHER_IS_BETTER[claim.metric]) for one in used]
    if other is None:
        return associate(list(zip(x, y, strict=True)), correlation), used
    z = [_signed(one.teacher[other], _better(other)) for one in used]
    statistic = partial_correlation if relate.given else explained_difference
    return associate(list(zip(x, y, z, strict=True)), statistic), used


def _better(name: str) -> bool | None:
    return properties.HIGHER_IS_BETTER[name]


def _signed(value: float, higher_is_better: bool | None) -> float:
    """Turn a number so that more is better; where neither is, leave it."""
    return -value if higher_is_better is False else value


def relate_record(study: Study, index: int) -> dict[str, Any]:
    """Return all that a verdict stands on, as plain data: two that differ are two claims."""
    one = study.relate[index]
    claim = study.claims[one.claim]
    return {
        "claim": one.claim,
        "arm": one.arm,
        "property": one.property,
        "given": one.given,
        "rather_than": one.rather_than,
        "metric": claim.metric,
        "smallest_effect": claim.smallest_effect,
    }


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
