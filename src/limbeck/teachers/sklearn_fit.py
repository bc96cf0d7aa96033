"""Teachers fitted by scikit-learn from a specification: a class name and its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from limbeck.data.batch import first_tensor
from limbeck.data.loader import eval_batches
from limbeck.errors import TeacherError, unknown
from limbeck.teachers.black_box import BlackBoxTeacher

if TYPE_CHECKING:
    from limbeck.data.bundle import DataBundle

_BATCH_SIZE = 1024


def fit_sklearn(
    estimator: str,
    arguments: Mapping[str, Any] | None,
    data: DataBundle,
    *,
    seed: int = 0,
    name: str = "teacher",
) -> BlackBoxTeacher:
    """Fit a scikit-learn estimator on the labelled training samples, as a teacher.

    It sees what evaluation shows (not augmented, normalised), flattened to ``[samples, features]``.

    Args:
        estimator: class name of a classifier (for regression: of a regressor), such as
            "RandomForestClassifier" or "HistGradientBoostingClassifier".
        arguments: its arguments. ``random_state`` is ``seed`` where it has one and none is given.
        data: gives training samples, task and number of outputs.
        seed: the run's seed.
        name: what methods call the teacher.

    Returns:
        A ``BlackBoxTeacher``, not yet bound.

    Raises:
        TeacherError: an unknown class or argument (with the nearest name), no labelled samples, or
            a fit that fails.
    """
    arguments = dict(arguments or {})
    kind = _find(estimator, data.task, name)
    known = [key for key in inspect.signature(kind).parameters if key not in ("args", "kwargs")]
    for key in arguments:
        if key not in known:
            raise TeacherError(
                f"teachers.{name}: " + unknown(f"argument of {estimator}", key, known)
            )
    if "random_state" in known:
        arguments.setdefault("random_state", seed % 2**32)
    inputs, targets = _labelled(data, name)
    try:
        fitted = kind(**arguments).fit(inputs, targets)
    except Exception as error:  # whatever an estimator raises
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise TeacherError(f"teachers.{name}: {estimator} cannot be fitted: {reason}") from error
    return BlackBoxTeacher(fitted, num_outputs=data.num_outputs, task=data.task, name=name)


def _find(estimator: str, task: str, name: str) -> type[Any]:
    """Return the class by its name."""
    from sklearn.utils import all_estimators

    kind = "regressor" if task == "regression" else "classifier"
    classes = dict(all_estimators(type_filter=kind))
    if kind == "classifier":
        classes = {key: value for key, value in classes.items() if _has_probabilities(value)}
    if estimator not in classes:
        raise TeacherError(
            f"teachers.{name}: " + unknown(f"scikit-learn {kind}", estimator, classes)
        )
    found: type[Any] = classes[estimator]
    return found


def _has_probabilities(kind: type[Any]) -> bool:
    return hasattr(kind, "predict_proba")


def _labelled(data: DataBundle, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return inputs ``[samples, features]`` and targets of the labelled training samples."""
    view = data.splits["train"]
    complete = view.labelled
    if data.task != "classification":  # estimators read no missing values among the targets
        complete = ~view.targets.isnan().reshape(len(view), -1).any(dim=1)
    view = view.select(view.indices[complete])
    if not len(view):
        raise TeacherError(f"teachers.{name}: no labelled training samples to fit on")
    inputs, targets = [], []
    for batch in eval_batches(view, _BATCH_SIZE, data.augment_eval):
        assert batch.targets is not None
        if not isinstance(batch.inputs, torch.Tensor):
            raise TeacherError(f"teachers.{name}: scikit-learn needs inputs that are one tensor")
        inputs.append(first_tensor(batch.inputs).reshape(len(batch), -1).cpu())
        targets.append(batch.targets.cpu())
    y = torch.cat(targets).numpy()
    if data.task == "multilabel":
        y = y.astype(np.int64)
    return torch.cat(inputs).numpy(), y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
