"""The Judge: measures students and teachers on the splits of a run."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.data import eval_batches
from limbeck.engine.asking import StudentVoice, members_of
from limbeck.engine.distributed import World
from limbeck.engine.evaluate import (
    HIGHER_IS_BETTER,
    MAIN_METRIC,
    Answers,
    among_members,
    collect,
    score,
)
from limbeck.engine.loyalty import measure_loyalty
from limbeck.engine.plan import Plan
from limbeck.engine.probing import linear_probe
from limbeck.errors import RecipeError, unknown
from limbeck.models import count_flops, count_parameters, measure_latency
from limbeck.models.cohort import Cohort, CohortMean
from limbeck.teachers.base import Teacher
from limbeck.teachers.peers import PeersTeacher
from limbeck.teachers.virtual import VirtualTeacher

if TYPE_CHECKING:
    from limbeck.engine.setup import Assembly

EVAL_BATCH = 128  # a larger one would need more memory than training does


@dataclass(frozen=True)
class Verdict:
    """How a student did on validation.

    Attributes:
        value: the metric that decides; None where the split has no labels.
        higher: whether more is better.
        member: the member that is meant, in a cohort deployed as its best.
        scores: all metrics, those of single members as ``member_0/accuracy`` and so on.
    """

    value: float | None
    higher: bool
    member: int
    scores: Mapping[str, float] = field(default_factory=dict)


class Judge:
    """Measures on rank 0; verdicts are shared. Fixed teachers answer each split once.

    Args:
        plan: the run's plan.
        parts: the run's parts.
        world: this process among its siblings.
    """

    def __init__(self, plan: Plan, parts: Assembly, world: World) -> None:
        self._plan = plan
        self._teachers = parts.teachers
        self._world = world
        self._answers: dict[tuple[str, str], Tensor] = {}
        self.metric = MAIN_METRIC[plan.data.task]
        if plan.train.select_by != "auto":
            if plan.train.select_by not in HIGHER_IS_BETTER:
                raise RecipeError(
                    "train.select_by: " + unknown("metric", plan.train.select_by, HIGHER_IS_BETTER)
                )
            self.metric = plan.train.select_by

    def validate(self, student: nn.Module) -> Verdict:
        """Measure the student, or cohort, on validation."""
        return self._world.lead(lambda: self._validate(student))

    def _validate(self, student: nn.Module) -> Verdict:
        higher = HIGHER_IS_BETTER[self.metric]
        answers = self.answers(student, "validation")
        teacher = self.reference("validation")
        task, groups = self._plan.data.task, self._plan.data.groups.get("validation")
        each = [score(task, logits, answers.targets, teacher, groups) for logits in answers.logits]
        values = [metrics.get(self.metric, math.nan) for metrics in each]
        known = [value for value in values if not math.isnan(value)]
        if self.metric not in each[0]:
            if self._plan.train.select_by != "auto":
                raise RecipeError(
                    f"train.select_by: validation gives no {self.metric!r} here "
                    f"(it gives: {', '.join(each[0])})"
                )
            return Verdict(None, higher, 0, each[0])
        best = values.index(max(known) if higher else min(known)) if known else 0
        scores = dict(each[best])
        if len(each) > 1:
            for index, metrics in enumerate(each):
                scores[f"member_{index}/{self.metric}"] = metrics[self.metric]
            if self._plan.cohort == "ensemble":
                mean = torch.stack(answers.logits).mean(dim=0)
                together = score(task, mean, answers.targets, teacher, groups)
                scores |= together
                return Verdict(together[self.metric], higher, -1, scores)
        return Verdict(values[best], higher, best, scores)

    def measure(self, student: nn.Module, split: str) -> dict[str, float]:
        """Return a student's own metrics on a split; of a cohort, those of its mean."""
        answers = self.answers(student, split)
        logits = torch.stack(answers.logits).mean(dim=0)
        data = self._plan.data
        return score(data.task, logits, answers.targets, groups=data.groups.get(split))

    def headline(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Return the few scores worth a line."""
        return {name: scores[name] for name in (self.metric, "agreement") if name in scores}

    def answers(self, student: nn.Module, split: str) -> Answers:
        """Return what a student says about a split, in float32, without touching its modes."""
        voice = StudentVoice(student, [()] * len(members_of(student)), forward=self._plan.forward)
        try:
            return collect(
                voice.logits, self._batches(split), self._world.device, modules=[student]
            )
        finally:
            voice.close()

    def reference(self, split: str) -> Tensor | None:
        """Return the logits of the teacher that fidelity is measured against, or None."""
        for name, teacher in self._teachers.items():
            if not isinstance(teacher, PeersTeacher | VirtualTeacher):
                return self.teacher_answers(name, teacher, split)
        return None

    def teacher_answers(self, name: str, teacher: Teacher, split: str) -> Tensor:
        """Return a teacher's logits on a split; a fixed teacher is asked once."""

        def ask() -> Tensor:
            said = collect(
                lambda batch: teacher.ask(batch, taps=()).logits,
                self._batches(split),
                self._world.device,
            )
            return said.logits[0]

        if teacher.changes:
            return ask()
        key = (name, split)
        if key not in self._answers:
            shared = self._plan.answers
            self._answers[key] = (
                ask() if shared is None else shared.get(self._decides(teacher, split), ask)
            )
        return self._answers[key]

    def _decides(self, teacher: Teacher, split: str) -> tuple[Hashable, ...]:
        """Return all that decides what a fixed teacher says about a split, to the bit."""
        train, data = self._plan.train, self._plan.data
        how = (train.precision, train.channels_last, train.compile)
        return (teacher.fingerprint(), data.fingerprint(), split, *how)

    def _batches(self, split: str) -> Any:
        data = self._plan.data
        return eval_batches(data.splits[split], EVAL_BATCH, data.augment_eval)

    # At the end of a run.

    def final(self, student: nn.Module) -> tuple[dict[str, dict[str, float]], dict[str, Tensor]]:
        """Measure the deployed student on validation and, once, on test.

        Returns:
            metrics by split, and the test predictions (student and teacher logits, targets).
        """
        metrics: dict[str, dict[str, float]] = {}
        predictions: dict[str, Tensor] = {}
        for split in ("validation", "test"):
            if not len(self._plan.data.splits[split]):
                continue
            voices: nn.Module = student
            if isinstance(student, CohortMean):
                voices = Cohort(student.members)
            answers = self.answers(voices, split)
            logits = torch.stack(answers.logits).mean(dim=0)
            teacher, task = self.reference(split), self._plan.data.task
            groups = self._plan.data.groups.get(split)
            metrics[split] = score(task, logits, answers.targets, teacher, groups)
            if self._plan.train.measure_saliency:
                metrics[split] |= self._loyalty(student, split)
            if len(answers.logits) > 1:
                metrics[split] |= among_members(task, answers.logits, answers.targets)
            if split == "test":
                if self._plan.probe is not None:
                    found = linear_probe(
                        student, self._plan.probe, self._world.device, forward=self._plan.forward
                    )
                    metrics[split]["probe_accuracy"] = found
                predictions = {"student_logits": logits}
                if answers.targets is not None:
                    predictions["targets"] = answers.targets
                if teacher is not None:
                    predictions["teacher_logits"] = teacher
        return metrics, predictions

    def _loyalty(self, student: nn.Module, split: str) -> dict[str, float]:
        for teacher in self._teachers.values():
            if not isinstance(teacher, PeersTeacher | VirtualTeacher):
                found = measure_loyalty(
                    student,
                    teacher,
                    self._batches(split),
                    self._world.device,
                    forward=self._plan.forward,
                )
                return {key: value for key, value in found.items() if not math.isnan(value)}
        return {}

    def teacher_summary(self, example: Any) -> dict[str, dict[str, Any]]:
        """Return, for each teacher that looks at inputs, what it is, its cost and test metrics."""
        summary: dict[str, dict[str, Any]] = {}
        data = self._plan.data
        test = data.splits["test"]
        for name, teacher in self._teachers.items():
            if isinstance(teacher, PeersTeacher | VirtualTeacher):
                continue
            entry: dict[str, Any] = {"what": teacher.describe(), "metrics": {}}
            if len(test):
                logits = self.teacher_answers(name, teacher, "test")
                entry["metrics"]["test"] = score(
                    data.task, logits, test.targets, groups=data.groups.get("test")
                )
            if teacher.module is not None:
                entry |= cost_of(teacher.module, example)
            summary[name] = entry
        return summary


def cost_of(module: nn.Module, example: Any) -> dict[str, Any]:
    """Return parameters, FLOPs and latency at batch 1; those that cannot be had are left out."""
    found: dict[str, Any] = {"parameters": count_parameters(module)}
    try:
        found["flops"] = count_flops(module, example)
        found["latency_ms"] = measure_latency(module, example)
    except Exception:  # whatever a module raises that is not called as module(inputs)
        pass
    return found
