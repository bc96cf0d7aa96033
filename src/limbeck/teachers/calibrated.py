"""Calibrated teacher: another teacher's logits, scaled by what validation samples say."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from limbeck.data.batch import Batch, first_tensor
from limbeck.data.loader import eval_batches
from limbeck.errors import TeacherError, unknown
from limbeck.functional import (
    ScalingFit,
    expected_calibration_error,
    fit_scaling,
    fit_temperature,
    fit_temperature_by_ace,
    negative_log_likelihood,
    scale_logits,
)
from limbeck.taps.outputs import Outputs
from limbeck.teachers.answered_maps import apart, with_maps
from limbeck.teachers.base import Teacher, refuse_learning, stated_inputs
from limbeck.teachers.digest import digest_of_parts, tensor_digest

if TYPE_CHECKING:
    from limbeck.data.bundle import DataBundle
    from limbeck.teachers.visits import Visits

_log = logging.getLogger("limbeck.teachers")
_BATCH_SIZE = 256
SCALINGS = ("temperature", "vector", "matrix")
MIN_HALF = 8  # validation samples in a half from which a scaling is tried on the other


class CalibratedTeacher(Teacher):
    """A teacher whose logits are scaled until its probabilities mean what they say.

    - "temperature": z / T, one temperature for all (Guo et al. 2017, 1706.04599);
    - "vector": one factor and one bias a class; "matrix": W z + b (ibid.). Both may change which
      class is the largest, and so the accuracy.

    What is fitted is fitted on ``bind`` to the labelled samples of the validation split, never to
    test or training samples, and said, with the calibration before and after: for that, each half
    of the validation samples is scaled by what the other half fits. Features stay what the inner
    teacher says; logits are scaled, those of its members too, and explanations are of the scaled
    ones. It gives what the inner teacher gives: a method that uses the inner module's classifier
    scales it too (``scaled``).

    Args:
        teacher: the teacher to calibrate.
        temperature: "nll" for the least negative log-likelihood; "ace" for the least adaptive
            calibration error (Kim et al. 2025, 2508.20224); or a number above 0.
        scaling: "temperature", "vector" or "matrix"; the last two are fitted by likelihood.
        penalty: of vector and matrix, at least 0 (``functional.fit_scaling``).
        name: what methods call it; None: the inner teacher's name.
        say: gets lines for a person; None: the log.

    Attributes:
        fitted: T, or what was fitted of a vector or matrix; None until ``bind``.
        account: "nll_before", "nll_after", "ece_before", "ece_after" and "accuracy_before",
            "accuracy_after" on validation, as above; empty where nothing was fitted.

    Raises:
        TeacherError: another temperature, scaling or penalty; on ``bind``, no labelled validation
            sample, or a task other than classification.
    """

    rescales = True

    def __init__(
        self,
        teacher: Teacher,
        *,
        temperature: Literal["nll", "ace"] | float = "nll",
        scaling: Literal["temperature", "vector", "matrix"] = "temperature",
        penalty: float = 0.0,
        name: str | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name or teacher.name
        _check(self.name, temperature, scaling, penalty)
        if teacher.access == "sparse":
            raise TeacherError(
                f"teachers.{self.name}: a cache that keeps some classes only cannot be calibrated; "
                "put the cache around the calibrated teacher"
            )
        refuse_learning(teacher, self.name, "a calibrated one")
        self.inner = teacher
        self.temperature = temperature
        self.scaling = scaling
        self.penalty = penalty
        self.fitted: float | ScalingFit | None = (
            None if isinstance(temperature, str) else float(temperature)
        )
        self.account: dict[str, float] = {}
        self.access = teacher.access
        self.changes = teacher.changes
        self.gives_gradients = teacher.gives_gradients
        self._explains: tuple[str, ...] = ()
        self._say = say

    def foresee(self, visits: Visits) -> None:
        """Tell the inner teacher."""
        self.inner.foresee(visits)

    def bind(self, data: DataBundle | None, device: torch.device) -> None:
        """Bind the inner teacher and fit the scaling."""
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
            logits, targets = self._validation(data, device)
            self.fitted, note = self._fit(logits, targets)
            self.account = self._account(logits, targets)
            self._tell(note, len(targets))

    def _fit(self, logits: Tensor, targets: Tensor) -> tuple[float | ScalingFit, str]:
        """Return what fits these samples best, and a remark."""
        if self.scaling != "temperature":
            fit = fit_scaling(logits, targets, form=self.scaling, penalty=self.penalty)
            return fit, "" if fit.converged else " (not converged: a penalty would hold it)"
        by = fit_temperature if self.temperature == "nll" else fit_temperature_by_ace
        result = by(logits, targets)
        bound = " (the end of the range: the best lies beyond)" if result.at_bound else ""
        return result.temperature, bound

    def _account(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """Measure each half of the samples as the other half scales it."""
        if len(targets) < 2 * MIN_HALF:
            return {}
        after = torch.empty_like(logits)
        halves = (slice(0, None, 2), slice(1, None, 2))
        for mine, other in (halves, halves[::-1]):
            after[mine] = _scaled(logits[mine], self._fit(logits[other], targets[other])[0])
        found = {}
        for when, said in (("before", logits), ("after", after)):
            probs = said.double().softmax(dim=1)
            found[f"nll_{when}"] = float(negative_log_likelihood(said, targets))
            found[f"ece_{when}"] = float(expected_calibration_error(probs, targets))
            found[f"accuracy_{when}"] = float((said.argmax(dim=1) == targets).double().mean())
        return found

    def _tell(self, note: str, count: int) -> None:
        line = f"{self.name}: {self._what()} by {self._how()} on {count} validation samples{note}"
        if self.account:
            line += "; held out by halves: " + ", ".join(
                f"{label} {self.account[f'{key}_before']:.4g} -> {self.account[f'{key}_after']:.4g}"
                for key, label in (("nll", "NLL"), ("ece", "ECE"), ("accuracy", "accuracy"))
            )
        if self._say is None:
            _log.info("teacher %s", line)
        else:
            self._say(line)

    def _how(self) -> str:
        return str(self.temperature) if self.scaling == "temperature" else "nll"

    def _what(self) -> str:
        if self.scaling == "temperature":
            return f"temperature {self.fitted:.4g}"
        return f"{self.scaling} scaling"

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
        """Hand the taps on, but for explanations of what is scaled here."""
        layers, self._explains = self._apart(taps)
        self.inner.set_taps(layers)

    def _apart(self, taps: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the inner teacher's taps, and explanations that are not those of its logits.

        One temperature changes neither the top class nor the direction of its map.
        """
        return (tuple(taps), ()) if self.scaling == "temperature" else apart(taps)

    def ask(
        self, batch: Batch, *, taps: Sequence[str] | None = None, require_grad: bool = False
    ) -> Outputs:
        """Return the inner teacher's outputs with scaled logits."""
        layers, explains = (None, self._explains) if taps is None else self._apart(taps)
        said = _rescaled(
            self.inner.ask(batch, taps=layers, require_grad=require_grad), self._known()
        )
        if not explains:
            return said

        def again(taps: tuple[str, ...]) -> Outputs:
            asked = self.inner.ask(batch, taps=taps, require_grad=True)
            return _rescaled(asked, self._known())

        return with_maps(said, explains, again, first_tensor(stated_inputs(batch)))

    def scaled(self, logits: Tensor, *, differences: bool = False) -> Tensor:
        """Return the logits, scaled; of differences, without the bias."""
        logits, known = self.inner.scaled(logits, differences=differences), self._known()
        if differences and not isinstance(known, float):
            known = known._replace(bias=torch.zeros_like(known.bias))
        return _scaled(logits, known)

    def to_member(self, said: Outputs, member: int) -> Outputs:
        """Return what the inner teacher lets a member hear, scaled."""
        known = self._known()
        if not self.changes or not isinstance(known, float):
            return said
        return _rescaled(self.inner.to_member(_rescaled(said, 1 / known), member), known)

    def _known(self) -> float | ScalingFit:
        if self.fitted is None:
            raise TeacherError(
                f"teachers.{self.name}.temperature: not fitted yet; bind it to data first"
            )
        return self.fitted

    def fingerprint(self) -> str:
        """Return the digest of the inner teacher and the scaling."""
        known = self._known()
        if isinstance(known, float):
            return digest_of_parts("calibrated", self.inner.fingerprint(), repr(known))
        parts = [self.scaling, tensor_digest(known.weight), tensor_digest(known.bias)]
        parts += ["explained"] if self._explains else []  # once, explanations were the inner one's
        return digest_of_parts("calibrated", self.inner.fingerprint(), *parts)

    @property
    def hides_members(self) -> bool:
        """Whether the inner teacher keeps no single voices behind its answers."""
        return getattr(self.inner, "hides_members", False)

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

    def step_begin(self, ctx: Any) -> None:
        """Hand the step on."""
        self.inner.step_begin(ctx)

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
        """Return the inner teacher, the scaling and what it did to the calibration."""
        how = f" (by {self._how()} on validation)" if isinstance(self.temperature, str) else ""
        if self.scaling != "temperature":
            form = "W z + b, W diagonal" if self.scaling == "vector" else "W z + b"
            what = f"{self.scaling} scaling {form}{how}"
        else:
            number = "not fitted yet" if self.fitted is None else f"{self.fitted:.4g}"
            what = f"logits / T, T = {number}{how}"
        if self.account:
            what += f", ECE {self.account['ece_before']:.4g} -> {self.account['ece_after']:.4g}"
        inner, _, setting = self.inner.describe().partition(";")
        return f"{inner}, {what}" + (f";{setting}" if setting else "")

    def close(self) -> None:
        """Close the inner teacher."""
        self.inner.close()


def _check(name: str, temperature: object, scaling: str, penalty: float) -> None:
    numeric = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not (temperature in ("nll", "ace") or (numeric and 0 < float(temperature) < torch.inf)):  # type: ignore[arg-type]
        raise TeacherError(
            f"teachers.{name}.temperature: expected 'nll', 'ace' or a number above 0, "
            f"got {temperature!r}"
        )
    if scaling not in SCALINGS:
        raise TeacherError(f"teachers.{name}.scaling: " + unknown("scaling", scaling, SCALINGS))
    if scaling != "temperature" and temperature != "nll":
        raise TeacherError(
            f"teachers.{name}.temperature: {scaling} scaling is fitted by likelihood, expected "
            f"'nll', got {temperature!r}"
        )
    if not 0 <= penalty < torch.inf or (penalty and scaling == "temperature"):
        raise TeacherError(
            f"teachers.{name}.penalty: expected a number of at least 0, with vector or matrix "
            f"scaling, got {penalty!r}"
        )


def _rescaled(outputs: Outputs, fitted: float | ScalingFit) -> Outputs:
    """Scale the logits; of an ensemble, those of its members too."""
    return Outputs(
        _scaled(outputs.logits, fitted),
        outputs.features,
        outputs.attentions,
        tuple(_rescaled(member, fitted) for member in outputs.members),
    )


def _scaled(logits: Tensor, fitted: float | ScalingFit) -> Tensor:
    if isinstance(fitted, float):
        return logits / fitted
    weight, bias = fitted.weight.to(logits.device), fitted.bias.to(logits.device)
    return scale_logits(logits, weight, bias)
