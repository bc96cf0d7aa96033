"""Diagnoses in words and as plain data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from limbeck.diagnostics.class_geometry import ClassGeometry
from limbeck.diagnostics.knowledge import Knowledge
from limbeck.diagnostics.variance import VarianceEstimate

_DERIVED = ("correlation", "beta", "best_lambda", "ratio", "unbiased_lambda", "unbiased_ratio")


def as_plain(found: VarianceEstimate) -> dict[str, Any]:
    """Return all quantities as plain data; an infinite curvature as None."""
    told = dataclasses.asdict(found) | {name: getattr(found, name) for name in _DERIVED}
    return {key: None if told[key] == math.inf else told[key] for key in told}


def lines(found: VarianceEstimate) -> Iterator[str]:
    """Yield the lines for a person."""
    yield f"A   {found.noise:.4g}  noise of the student's gradient (batches of {found.batch_size})"
    yield f"B   {found.teacher_noise:.4g}  mean square of the teacher's gradient"
    yield f"C   {found.covariance:.4g}  covariance of the two"
    yield f"b   {found.bias:.4g}  square of the teacher's gradient over all data"
    yield f"ρ   {found.correlation:.3f}  correlation of the two gradients"
    yield f"μ   {found.curvature:.3g}  curvature along the teacher's bias; step {found.step:g}"
    yield f"β   {found.beta:.3g}  the teacher's bias, in units of its noise"
    yield (
        f"λ*  {found.best_lambda:.3f}  best weight of pvr; it would leave {found.ratio:.1%} of the "
        "noise"
    )
    yield (
        f"λ*  {found.unbiased_lambda:.3f}  with unbiased=true; it would leave "
        f"{found.unbiased_ratio:.1%}"
    )
    if found.slope > found.noise / found.num_batches:
        yield (
            f"The student is not at its optimum (square of its full gradient {found.slope:.2g}): "
            "train it longer for a better estimate."
        )


def loyalty_lines(found: Mapping[str, float | None]) -> Iterator[str]:
    """Yield the lines for a person; None is told as not known."""
    said = {
        "label_loyalty": "same class as the teacher",
        "probability_loyalty": "1 - sqrt(JS) of the probabilities",
        "saliency_loyalty": "correlation of what the answers hang on (gradient times embedding)",
    }
    for key, words in said.items():
        value = found.get(key)
        shown = "    –" if value is None else f"{value:5.3f}"
        yield f"{key.removesuffix('_loyalty'):<12}{shown}  {words}"


def knowledge_as_plain(found: Knowledge) -> dict[str, Any]:
    """Return all quantities as plain data; None where a measure has nothing to go by."""
    weights = found.rescaling
    return {
        "split": found.split,
        "num_samples": len(weights.weights),
        "weights": {
            "rank_correlation": _known(weights.rank_correlation),
            "lower_quartile": weights.quantile(0.25),
            "median": weights.quantile(0.5),
            "upper_quartile": weights.quantile(0.75),
            "negative": weights.negative,
        },
        "cosines": {
            name: None if one is None else _cosines(one)
            for name, one in (("teacher", found.teacher), ("student", found.student))
        },
    }


def knowledge_lines(found: Knowledge) -> Iterator[str]:
    """Yield the lines for a person."""
    told = knowledge_as_plain(found)
    weights = told["weights"]
    samples = f"{told['num_samples']:,} samples of {found.split}"
    yield f"what the teacher makes of each gradient at the label ({samples})"
    said = {
        "rank_correlation": "rank correlation with the teacher's probability of the label",
        "lower_quartile": "lower quartile; 1 leaves the gradient as cross-entropy has it",
        "median": "median",
        "upper_quartile": "upper quartile",
        "negative": "share below 0: pulled away from the label",
    }
    for key, words in said.items():
        yield f"  {_shown(weights[key])}  {words}"
    rows = [
        (who, hierarchy, values)
        for who, geometry in told["cosines"].items()
        for hierarchy, values in (geometry or {}).items()
    ]
    if not rows:
        yield "cosines of classes: none (the data know no superclasses, or no last layer was found)"
        return
    yield "mean cosine of classes in the last layer"
    for who, hierarchy, values in rows:
        numbers = f"within {_shown(values['within'])}  across {_shown(values['across'])}"
        yield f"  {who:<8} {hierarchy:<10} {numbers}"


def _cosines(geometry: ClassGeometry) -> dict[str, dict[str, float | None]]:
    return {
        name: {"within": _known(geometry.within(name)), "across": _known(geometry.across(name))}
        for name in geometry.superclasses
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _shown(value: float | None) -> str:
    return "     –" if value is None else f"{value:6.3f}"
