"""Calibrated teacher: another teacher's logits, divided by a fitted temperature."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.data.loader import eval_batches
from limbeck.errors import TeacherError
from limbeck.functional import fit_temperature, fit_temperature_by_ace
from limbeck.taps.outputs import Outputs
from limbeck.teachers.base import Teacher
from limbeck.teachers.digest import digest_of_parts

if TYPE_CHECKING:
    from limbeck.data.bundle import DataBundle
    from limbeck.teachers.visits import Visits

_log = logging.getLogger("limbeck.teachers")
_BATCH_SIZE = 256


class CalibratedTeacher(Teacher):
    """A teacher whose logits are divided by one temperature T (Guo et al. 2017, 1706.04599).

    T is fitted on ``bind`` to the labelled samples of the validation split, never to test or
    training samples, and said in the log and in ``describe``. Only ``logits`` are divided;
    features and members stay what the inner teacher says. It gives what the inner teacher gives,
    but a method that reads the inner module's head itself reads it uncalibrated.

    Args:
        teacher: the teacher to calibrate.
        temperature: "nll" for the least negative log-likelihood; "ace" for the least adaptive
            calibration error (Kim et al. 2025, 2508.20224); or a number above 0.
        name: what methods call it; None: the inner teacher's name.

    Attributes:
        fitted: T; None until ``bind`` where it is to be fitted.

    Raises:
        TeacherError: another temperature; on ``bind``, no labelled validation sample, or a task
            other than classification.
    """

    def __init__(
        self,
        teacher: Teacher,
        *,
        temperature: Literal["nll", "ace"] | float = "nll",
        name: str | None = None,
    ) -> None:
        self.name = name or teacher.name
        numeric = isinstance(temperature, int | float) and not isinstance(temperature, bool)
        if not (temperature in ("nll", "ace") or (numeric and 0 < float(temperature) < torch.inf)):
            raise TeacherError(
                f"teachers.{self.name}.temperature: expected 'nll', 'ace' or a number above 0, "
                f"got {temperature!r}"
            )
        if teacher.access == "sparse":
            raise TeacherError(
                f"teachers.{self.name}: a cache that keeps some classes only cannot be calibrated; "
                "put the cache around the calibrated teacher"
            )
        self.inner = teacher
        self.temperature = temperature
        self.fitted = None if isinstance(temperature, str) else float(temperature)
        self.access = teacher.access
        self.changes = teacher.changes
        self.gives_gradients = teacher.gives_gradients

    def foresee(self, visits: Visits) -> None:
        """Tell the inner teacher."""
        self.inner.foresee(visits)

    def bind(self, data: DataBundle | None, device: torch.device) -> None:
        """Bind the inner teacher and fit T."""
        self.inner.name = self.name
        self.inner.bind(data, device)
        if data is None:
            return
        if data.task != "classification":
            raise TeacherError(f"teachers.{self.name}.temperature: no temperature for {data.task}")
        if isinstance(self.temperature, str):
            if self.changes:
                raise TeacherError(
                    f"teachers.{self.name}.temperature: {self.inner.name!r} changes during the "
                    "run, no temperature can be fitted before it: give a number"
                )
            self.fitted = self._fit(data, device)

    def _fit(self, data: DataBundle, device: torch.device) -> float:
        logits, targets = self._validation(data, device)
        fit = fit_temperature if self.temperature == "nll" else fit_temperature_by_ace
        result = fit(logits, targets)
        bound = " (the end of the range: the best lies beyond)" if result.at_bound else ""
        _log.info(
            "teacher %s: temperature %.4g by %s on %d validation samples%s",
            self.name,
            result.temperature,
            self.temperature,
            len(targets),
            bound,
        )
        return result.temperature

    def _validation(self, data: DataBundle, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the inner teacher's logits and the targets of labelled validation samples."""
        view = data.splits.get("validation")
        if view is None or not bool(view.labelled.any()):
            raise TeacherError(
                f"teachers.{self.name}.temperature: no labelled validation samples to fit it to; "
                "give a number, or a validation split with labels"
            )
        view = view.select(view.indices[view.labelled])
        logits, targets = [], []
        for batch in eval_batches(view, _BATCH_SIZE, data.augment_eval):
            assert batch.targets is not None
            logits.append(self.inner.ask(batch.to(device), taps=()).logits.cpu())
            targets.append(batch.targets.cpu())
        return torch.cat(logits), torch.cat(targets)

    def meet(self, student: nn.Module) -> None:
        """Hand the student on."""
        self.inner.meet(student)

    def set_taps(self, taps: Sequence[str]) -> None:
        """Hand the taps on."""
        self.inner.set_taps(taps)

    def ask(
        self, batch: Batch, *, taps: Sequence[str] | None = None, require_grad: bool = False
    ) -> Outputs:
        """Return the inner teacher's outputs with ``logits / T``."""
        outputs = self.inner.ask(batch, taps=taps, require_grad=require_grad)
        return Outputs(
            outputs.logits / self._temperature(),
            outputs.features,
            outputs.attentions,
            outputs.members,
        )

    def _temperature(self) -> float:
        if self.fitted is None:
            raise TeacherError(
                f"teachers.{self.name}.temperature: not fitted yet; bind it to data first"
            )
        return self.fitted

    def fingerprint(self) -> str:
        """Return the digest of the inner teacher and T."""
        return digest_of_parts("calibrated", self.inner.fingerprint(), repr(self._temperature()))

    @property
    def module(self) -> nn.Module | None:
        """The inner teacher's module."""
        return self.inner.module

    @property
    def forward(self) -> Callable[[Any, Any], Any] | None:
        """What the inner teacher's module is run by."""
        return self.inner.forward

    @property
    def state(self) -> nn.Module | None:
        """The inner teacher's state."""
        return self.inner.state

    def step_end(self, student: nn.Module, ctx: Any) -> None:
        """Hand the step on."""
        self.inner.step_end(student, ctx)

    def epoch_end(self, student: nn.Module, ctx: Any) -> None:
        """Hand the epoch on."""
        self.inner.epoch_end(student, ctx)

    def reads(self, data: DataBundle) -> str:
        """Return what the inner teacher does with its inputs."""
        return self.inner.reads(data)

    def inputs_of(self, batch: Batch) -> Any:
        """Return the inputs as the inner teacher's module reads them."""
        return self.inner.inputs_of(batch)

    def describe(self) -> str:
        """Return the inner teacher and T."""
        how = f" (by {self.temperature} on validation)" if isinstance(self.temperature, str) else ""
        number = "not fitted yet" if self.fitted is None else f"{self.fitted:.4g}"
        return f"{self.inner.describe()}; logits / T, T = {number}{how}"

    def close(self) -> None:
        """Close the inner teacher."""
        self.inner.close()
