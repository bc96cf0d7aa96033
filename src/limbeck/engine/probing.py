"""Linear probe: what a student's features are worth on data that it has not learned from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.data import eval_batches
from limbeck.data.batch import has_label
from limbeck.engine.asking import members_of
from limbeck.errors import RecipeError
from limbeck.models.calling import evaluating
from limbeck.taps import TappedModel

if TYPE_CHECKING:
    from limbeck.data import DataBundle

LAYER = "penultimate"
MOST_SAMPLES = 10_000
BATCH = 256


def check_probe(probe: DataBundle, data: DataBundle) -> None:
    """Refuse data that the student cannot read, or that have no classes to be told.

    Raises:
        RecipeError: in one line.
    """
    if probe.task != "classification":
        raise RecipeError(f"probe: expected data with classes, got {probe.task}")
    if probe.input_shape != data.input_shape:
        read, given = ("x".join(map(str, shape)) for shape in (data.input_shape, probe.input_shape))
        raise RecipeError(f"probe: the student reads inputs of {read}, these data give {given}")
    if not len(probe.splits["test"]):
        raise RecipeError("probe: expected data with a test part")


def linear_probe(
    student: nn.Module,
    probe: DataBundle,
    device: torch.device,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> float:
    """Return the test accuracy of a linear classifier on a network's features.

    The features are those before the last layer, of evaluation mode, standardised; the classifier
    is a logistic regression (scikit-learn, C = 1) on the first 10,000 labelled training samples.
    The network is not changed.

    Args:
        student: the network; of an ensemble, the features of all members side by side.
        probe: data with classes; their own normalisation applies.
        device: where the network lives.
        forward: how to run it where it is not called as ``student(inputs)``.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    members = members_of(student) or [student]
    parts = {part: _features(members, probe, part, device, forward) for part in ("train", "test")}
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    classifier.fit(*parts["train"])
    return float(classifier.score(*parts["test"]))


def _features(
    members: list[nn.Module],
    probe: DataBundle,
    part: str,
    device: torch.device,
    forward: Callable[[nn.Module, Any], Any] | None,
) -> tuple[Any, Any]:
    """Return features ``[samples, channels]`` and labels of a part, as arrays."""
    columns = []
    labels: list[Tensor] = []
    for member in members:
        rows, labels, seen = [], [], 0
        with torch.no_grad(), evaluating(member), TappedModel(member, forward=forward) as voice:
            for batch in eval_batches(probe.splits[part], BATCH, probe.augment_eval):
                if part == "train" and seen >= MOST_SAMPLES:
                    break
                assert batch.targets is not None
                known = has_label(batch.targets)
                (feature,) = voice.ask(batch.to(device), (LAYER,)).features.values()
                rows.append(feature.flatten(1).float().cpu()[known])
                labels.append(batch.targets[known])
                seen += int(known.sum())
        columns.append(torch.cat(rows))
    return torch.cat(columns, dim=1).numpy(), torch.cat(labels).numpy()
