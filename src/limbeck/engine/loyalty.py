"""How loyal a student is to its teacher: labels, probabilities, and what the answers hang on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import TeacherError
from limbeck.models.calling import evaluating
from limbeck.taps import TappedModel, roles_of
from limbeck.taps.outputs import Outputs
from limbeck.taps.slopes import feature_at, row_mask, slopes_at
from limbeck.teachers.base import Teacher

KEYS = ("label_loyalty", "probability_loyalty", "saliency_loyalty")


def measure_loyalty(
    student: nn.Module,
    teacher: Teacher,
    batches: Iterable[Batch],
    device: torch.device,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> dict[str, float]:
    """Return the three loyalties of a student for classes (Wang et al. 2211.01071).

    ``label_loyalty`` is the share of samples with the same top class; ``probability_loyalty`` is
    1 - sqrt(JS); ``saliency_loyalty`` the Pearson correlation of the saliencies of a text's tokens:
    gradient of the network's own top class times embedding. The sign is kept and sentences are
    averaged, which the paper leaves open. Of networks without embeddings, saliency is gradient
    times input, number by number. All are means over samples.

    Args:
        student: the network.
        teacher: a bound Teacher with a network.
        batches: what they are asked about.
        device: where they live.
        forward: how to run the student where it is not ``student(inputs)``.

    Raises:
        TeacherError: the teacher has no network.
    """
    if teacher.module is None or not teacher.gives_gradients:
        raise TeacherError(
            f"teachers.{teacher.name}: gives no gradients, which saliency is made of; use a live "
            "model without a cache"
        )
    ours, theirs = _tap_of(student), _tap_of(teacher.module)
    found: dict[str, list[Tensor]] = {key: [] for key in KEYS}
    with evaluating(student), TappedModel(student, forward=forward) as voice:
        for batch in batches:
            batch = batch.to(device)
            said = voice.ask(batch, (ours,), require_grad=True)
            heard = teacher.ask(batch, taps=(theirs,), require_grad=True)
            maps = [_saliency(*one) for one in ((said, ours), (heard, theirs))]
            if maps[0].shape != maps[1].shape:
                raise TeacherError(
                    f"teachers.{teacher.name}: its saliency is of shape {list(maps[1].shape)}, the "
                    f"student's of {list(maps[0].shape)}: they read different inputs"
                )
            logits = said.logits.detach(), heard.logits.detach()
            same = logits[0].argmax(dim=1) == logits[1].argmax(dim=1)
            mask = row_mask(batch.inputs, feature_at(said, ours))
            found["label_loyalty"].append(same.double())
            found["probability_loyalty"].append(functional.probability_loyalty(*logits))
            found["saliency_loyalty"].append(functional.row_correlation(maps[0], maps[1], mask))
    return {key: _mean(torch.cat(values)) for key, values in found.items() if values}


def _tap_of(network: nn.Module) -> str:
    return "embeddings" if "embeddings" in roles_of(network) else "input"


def _saliency(said: Outputs, tap: str) -> Tensor:
    """Return ``[batch, tokens]``, or a sample's numbers in one row."""
    (slope,) = slopes_at(said, (tap,), graph=False)
    product = (slope * feature_at(said, tap)).detach()
    return product.sum(dim=2) if product.dim() == 3 else product.flatten(1)


def _mean(values: Tensor) -> float:
    """Mean of what is known; NaN where nothing is."""
    known = values[~values.isnan()]
    return float(known.mean()) if len(known) else math.nan
