"""Networks made of other networks: by what name a folder describes each, and how it is rebuilt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from limbeck.models.assistant import STUDENT_ASSISTANT, rebuild_student_assistant
from limbeck.models.branched import NATIVE_ENSEMBLE, Branched
from limbeck.models.cohort import COHORT_MEAN, CohortMean
from limbeck.models.grown import GROWN, grow

Spec = Mapping[str, Any]
Rebuild = Callable[[Spec], nn.Module]


def _cohort_mean(spec: Spec, rebuild: Rebuild) -> nn.Module:
    return CohortMean(rebuild(one) for one in spec["arguments"].get("members", ()))


def _native_ensemble(spec: Spec, rebuild: Rebuild) -> nn.Module:
    inside = dict(spec["arguments"])
    return Branched(rebuild(inside.pop("network")), **inside)


def _grown(spec: Spec, rebuild: Rebuild) -> nn.Module:
    inside = spec["arguments"]
    return grow(rebuild(inside.get("student", {})), inside.get("parts", ()))


def _student_assistant(spec: Spec, rebuild: Rebuild) -> nn.Module:
    return rebuild_student_assistant(spec, rebuild(spec["arguments"]["given"]))


COMPOSED: Mapping[str, Callable[[Spec, Rebuild], nn.Module]] = {
    COHORT_MEAN: _cohort_mean,
    NATIVE_ENSEMBLE: _native_ensemble,
    GROWN: _grown,
    STUDENT_ASSISTANT: _student_assistant,
}
"""How to rebuild each, given what rebuilds the networks inside."""
