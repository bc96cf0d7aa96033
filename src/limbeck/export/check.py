"""Whether an export answers as the student does, on real samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.engine.evaluate import MAIN_METRIC, collect, score
from limbeck.errors import ExportError
from limbeck.export.formats import Format
from limbeck.export.subject import Subject
from limbeck.models.calling import first_sample

TOLERANCE = 1e-5
"""Largest difference of a float export from the student, over the largest output."""

CLOSE = 0.01
"""Accuracy (or another main metric) that quantisation may cost: one point."""


@dataclass(frozen=True)
class Check:
    """An export beside the student, on the same samples.

    Attributes:
        part: "test" or "validation".
        samples: how many samples were compared.
        max_difference: largest absolute difference of any output.
        scale: largest absolute output of the student.
        agreement: share of equal predictions; None for regression.
        metric: the task's main metric; "" where the samples have no labels.
        before: its value for the student.
        after: its value for the export.
    """

    part: str
    samples: int
    max_difference: float
    scale: float
    agreement: float | None
    metric: str
    before: float | None
    after: float | None

    @property
    def relative(self) -> float:
        """The largest difference over the largest output."""
        return self.max_difference / self.scale if self.scale else self.max_difference

    @property
    def lost(self) -> float:
        """How much of the main metric the export costs; negative where it gains."""
        return (self.before or 0.0) - (self.after or 0.0)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for export.json."""
        return {**asdict(self), "relative_difference": self.relative}


def compare(subject: Subject, ask: Callable[[Any], Tensor]) -> Check:
    """Ask student and export the same samples; a batch of one sample is among them."""
    cpu = torch.device("cpu")
    own = collect(lambda batch: subject.ask(batch.inputs), subject.checked, cpu)
    single = first_sample(subject.checked[0].inputs)
    try:
        other = collect(lambda batch: ask(batch.inputs), subject.checked, cpu)
        with torch.no_grad():
            said_alone = ask(single)
    except Exception as error:  # whatever another runtime raises
        why = " ".join(str(error).split())[:300]
        raise ExportError(f"the export was written, but does not answer: {why}") from error
    logits, said = own.logits[0], other.logits[0]
    if logits.shape != said.shape:
        raise ExportError(
            f"the export answers {list(said.shape)} where the student answers {list(logits.shape)}"
        )
    with torch.no_grad():
        alone = (said_alone - subject.ask(single)).abs().max()
    task = subject.data.task
    metric = MAIN_METRIC[task]
    before = score(task, logits, own.targets).get(metric)
    return Check(
        part=subject.part,
        samples=len(logits),
        max_difference=float(torch.maximum((said - logits).abs().max(), alone)),
        scale=float(logits.abs().max()),
        agreement=_agreement(task, logits, said),
        metric="" if before is None else metric,
        before=before,
        after=score(task, said, own.targets).get(metric),
    )


def refuse_if_different(check: Check, form: Format) -> None:
    """Raise ExportError where a float export is not the student; int8 may differ."""
    if form.exact and not check.relative <= TOLERANCE:  # a NaN is not within it either
        raise ExportError(
            f"the {form.name} export does not answer as the student does: outputs differ by up to "
            f"{check.max_difference:.3g}, {check.relative:.2g} of the largest output "
            f"{check.scale:.4g} (at most {TOLERANCE:g} is allowed); nothing was kept"
        )


def _agreement(task: str, logits: Tensor, said: Tensor) -> float | None:
    if task == "classification":
        return (logits.argmax(dim=1) == said.argmax(dim=1)).double().mean().item()
    if task == "multilabel":
        return ((logits > 0) == (said > 0)).double().mean().item()
    return None
