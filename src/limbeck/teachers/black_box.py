"""Black box: a function or fitted estimator that gives outputs, and nothing of its inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from limbeck.data.batch import Batch, first_tensor
from limbeck.data.normalize import Normalize
from limbeck.errors import TeacherError, unknown
from limbeck.taps.outputs import Outputs
from limbeck.teachers.answers import check_probabilities, classes_in_place, positive_columns
from limbeck.teachers.base import Teacher, stated_inputs
from limbeck.teachers.digest import digest_of_parts, estimator_digest, rule_digest, tensor_digest
from limbeck.teachers.examples import check_answer, example_batch
from limbeck.teachers.forms import as_arrays, as_float64, column_order, with_names
from limbeck.teachers.statistics import InputStatistics, copy_inputs

if TYPE_CHECKING:
    from limbeck.data.bundle import DataBundle

GIVES = ("probabilities", "logits", "values")
TAKES = ("auto", "numpy", "tensor")
PROBE_SIZE = 64  # samples whose answers stand for a function in its fingerprint


class BlackBoxTeacher(Teacher):
    """Any callable on inputs, or an object with ``predict_proba`` (or ``predict``, for regression).

    Probabilities become ``logits = log(max(p, floor))``; with several labels at once,
    ``log(p / (1 - p))`` with p kept in [floor, 1 - floor]. Columns of an estimator are put at
    their class (``classes_``: indices, or names of the data's classes); a class it has never seen
    gets the floor. One that was fitted on named columns is given the data's columns by name.

    Args:
        function: called with a copy of the inputs (which it may write to).
        num_outputs: classes or outputs; None: the data's, from ``bind``; before that, as many
            as are given.
        gives: "probabilities" or "logits"; for regression it is the values themselves, always
            ("values" says so, and refuses data of another task).
        floor: the least probability, above 0.
        takes: "numpy" arrays or "tensor" (on the batch's device). "auto": arrays, or tensors where
            the first question fails on arrays. Estimators are always given arrays.
        flatten: whether inputs are flattened to ``[batch, features]``; None: for estimators only.
        task: "classification", "multilabel" or "regression"; None: the data's, from ``bind``;
            before that, regression for an object that has ``predict`` alone.
        normalization: the statistics it expects of its inputs, where they are not the data's.
            ``Normalize()`` means inputs in [0, 1].
        probe: inputs, as batches have them, whose answers stand for a function in its
            fingerprint; None: the first 64 training samples, from ``bind``.
        name: what methods call it.

    Raises:
        TeacherError: an argument out of range; on asking, answers of another shape, that are not
            finite, or that are no probabilities (negative, or a row that sums to 1 only within
            more than 1e-3).
    """

    logits_advice = "for logits say gives='logits'"

    def __init__(
        self,
        function: Any,
        *,
        num_outputs: int | None = None,
        gives: Literal["probabilities", "logits", "values"] = "probabilities",
        floor: float = 1e-12,
        takes: Literal["auto", "numpy", "tensor"] = "auto",
        flatten: bool | None = None,
        task: str | None = None,
        normalization: Normalize | None = None,
        probe: Any = None,
        name: str = "teacher",
    ) -> None:
        for kind, value, choices in (("gives", gives, GIVES), ("takes", takes, TAKES)):
            if value not in choices:
                raise TeacherError(f"teachers.{name}: " + unknown(kind, value, choices))
        if not 0 < floor < 0.5:
            raise TeacherError(f"teachers.{name}.floor: expected a number in (0, 0.5), got {floor}")
        self.name = name
        self.function = function
        self.num_outputs = num_outputs
        self.gives: Literal["probabilities", "logits", "values"] = gives
        self.floor = floor
        self.takes = takes
        # Networks of other frameworks have predict too, but are called.
        self._is_estimator = hasattr(function, "predict_proba") or (
            hasattr(function, "predict") and not callable(function)
        )
        self._form = "numpy" if self._is_estimator else takes
        if not self._is_estimator and not callable(function):
            raise TeacherError(
                f"teachers.{name}: expected a callable, or an object with predict_proba, got "
                f"{type(function).__name__}"
            )
        self.flatten = self._is_estimator if flatten is None else flatten
        only_values = self._is_estimator and not hasattr(function, "predict_proba")
        values = only_values or gives == "values"
        self.task = task or ("regression" if values else "classification")
        self._class_names: tuple[str, ...] = ()
        self._order: tuple[int, ...] | None = None
        self._statistics = InputStatistics(normalization, name)
        self._probe = probe

    def bind(self, data: DataBundle | None, device: torch.device) -> None:
        """Take task and number of outputs from the data, and try it on some samples."""
        if data is None:
            return
        self._statistics.bind(data.normalization)
        if self.gives == "values" and data.task != "regression":
            raise TeacherError(
                f"teachers.{self.name}.gives: 'values' is for regression, the task is {data.task}"
            )
        self.task, self._class_names = data.task, data.class_names
        if self.num_outputs not in (None, data.num_outputs):
            raise TeacherError(
                f"teachers.{self.name}: gives {self.num_outputs} outputs, the data have "
                f"{data.num_outputs} (class counts differ)"
            )
        self.num_outputs = data.num_outputs
        if self._is_estimator:
            self._order = column_order(self.function, data.feature_names)
        example = example_batch(data, device, size=PROBE_SIZE)
        if self._probe is None:
            self._probe = example.inputs
        check_answer(self.name, self.ask(example), len(example), data.num_outputs)

    def ask(
        self, batch: Batch, *, taps: Sequence[str] | None = None, require_grad: bool = False
    ) -> Outputs:
        """Return logits ``[batch, outputs]``, float32, on the batch's device."""
        if taps:
            self.set_taps(taps)  # refuses
        if require_grad:
            raise TeacherError(
                f"teachers.{self.name}: a black box has no gradients; use a live model as teacher"
            )
        logits = self._logits(stated_inputs(batch))
        return Outputs(logits.to(first_tensor(batch.inputs).device))

    @torch.no_grad()
    def _logits(self, inputs: Any) -> Tensor:
        size = len(first_tensor(inputs))
        answer = self._answer(inputs, size)
        if answer.ndim == 1 and self.task != "classification":
            answer = answer[:, None]
        wanted = (size, self.num_outputs or answer.shape[-1])
        if answer.shape != wanted:
            raise TeacherError(
                f"teachers.{self.name}: gives outputs of shape {list(answer.shape)}, expected "
                f"{list(wanted)}"
            )
        if not np.isfinite(answer).all():
            raise TeacherError(f"teachers.{self.name}: gives NaN or infinite outputs")
        if self._gives_probabilities:
            check_probabilities(self.name, answer, self.task, self.logits_advice)
            answer = np.log(np.maximum(answer, self.floor)) - self._complement(answer)
        return torch.from_numpy(answer.astype(np.float32))

    @property
    def _gives_probabilities(self) -> bool:
        """Whether answers are probabilities; ``predict_proba`` always is, whatever ``gives``."""
        return self.task != "regression" and (self._is_estimator or self.gives == "probabilities")

    def _complement(self, answer: np.ndarray[Any, Any]) -> Any:
        """Return the log-probability of "no" where each label has its own probability."""
        return np.log(np.maximum(1 - answer, self.floor)) if self.task == "multilabel" else 0.0

    def _prepared(self, inputs: Any, form: str) -> Any:
        """Return a copy of the inputs as the function reads them."""
        inputs = copy_inputs(self._statistics(inputs, self.name))
        if self.flatten and isinstance(inputs, Tensor):
            inputs = inputs.flatten(start_dim=1) if inputs.dim() > 1 else inputs[:, None]
        if form == "tensor":
            return inputs
        arrays = as_arrays(inputs)
        if not (self._is_estimator and isinstance(arrays, np.ndarray)):
            return arrays
        return with_names(
            self.function, arrays if self._order is None else arrays[:, list(self._order)]
        )

    def _answer(self, inputs: Any, size: int) -> np.ndarray[Any, Any]:
        """Return what the function says as float64 ``[batch, outputs]``, classes in place."""
        said = self._say(inputs)
        classes = getattr(self.function, "classes_", None)
        if isinstance(said, list):
            return positive_columns(self.name, said, classes, size)
        if self.task == "classification" and self._is_estimator and classes is not None:
            return classes_in_place(self.name, said, classes, self.num_outputs, self._class_names)
        return said

    def _say(self, inputs: Any) -> np.ndarray[Any, Any] | list[Any]:
        """Call the function: a float64 array, or (several labels) the list that it gives."""
        call, reasons, last = self._callable(), [], None
        for form in ("numpy", "tensor") if self._form == "auto" else (self._form,):
            prepared = self._prepared(inputs, form)
            try:
                said = call(prepared)
                tables = self.task == "multilabel" and isinstance(said, list)
                read: np.ndarray[Any, Any] | list[Any] = said if tables else as_float64(said)
            except TeacherError:  # it knows best itself
                raise
            except Exception as error:  # whatever a stranger's code raises
                reasons.append(f"{type(error).__name__}: {str(error).strip()}".split("\n")[0])
                last = error
            else:
                self._form = form
                return read
        why = "; with tensors: ".join(dict.fromkeys(reasons))
        raise TeacherError(f"teachers.{self.name}: cannot answer: {why}") from last

    def _callable(self) -> Callable[[Any], Any]:
        if not self._is_estimator:
            function: Callable[[Any], Any] = self.function
            return function
        wanted = "predict" if self.task == "regression" else "predict_proba"
        method = getattr(self.function, wanted, None)
        if method is None:
            raise TeacherError(
                f"teachers.{self.name}: {type(self.function).__name__} has no {wanted}, which "
                f"{self.task} needs"
            )
        chosen: Callable[[Any], Any] = method
        return chosen

    def fingerprint(self) -> str:
        """Return the sha256 of parameters and fitted arrays, or of code and answers to the probe.

        Nothing is pickled: a scikit-learn estimator's attributes are walked. Where something
        inside cannot be read, the answers to the probe count too. Of a plain function its code,
        the plain values that it holds and these answers count; what it reads from elsewhere does
        not.

        Raises:
            TeacherError: a probe is needed and there is none.
        """
        own = "" if self._is_estimator else rule_digest(self.function)
        if self._walked:
            own, opaque = estimator_digest(self.function)
            if not opaque:
                return digest_of_parts("black box", own, *self._settings())
        if self._probe is None:
            raise TeacherError(
                f"teachers.{self.name}: cannot be fingerprinted without samples to answer: bind "
                "it to data, or give probe="
            )
        answers = tensor_digest(self._logits(self._probe))
        return digest_of_parts("black box", own, answers, *self._settings())

    @property
    def _walked(self) -> bool:
        return self._is_estimator and hasattr(self.function, "get_params")

    def _settings(self) -> tuple[str, ...]:
        return (
            self.gives,
            repr(self.floor),
            repr(self._order),
            self.task,
            str(self.num_outputs),
            self._statistics.key(),
        )

    def describe(self) -> str:
        """Return what answers, which statistics it sees, and what its fingerprint covers."""
        kind = type(self.function).__name__
        if not self._is_estimator:
            kind = getattr(self.function, "__name__", kind)
        covers = "its answers to the probe"
        if not self._is_estimator:
            covers = "its code and its answers to the probe"
        if self._walked:
            opaque = estimator_digest(self.function)[1]
            covers = "parameters and fitted arrays"
            if opaque:
                covers += f", and the answers to the probe ({', '.join(opaque)} cannot be read)"
        return f"black box {kind}; {self._statistics.describe()}; fingerprint of {covers}"
