"""Hierarchy: made-up classes whose likeness, and whose difficulty, are knobs."""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor

from limbeck.data.bundle import Common, DataBundle, bundle_from
from limbeck.data.registry import register_data
from limbeck.data.sources.common import common_options
from limbeck.errors import RecipeError

TEST, TEST_SEED = 0.3, 0


@register_data("hierarchy")
def hierarchy(
    *,
    superclasses: int = 5,
    classes: int = 4,
    similarity: float = 0.8,
    difficulty: float = 0.35,
    sines: int = 4,
    noise: float = 0.1,
    dim: int = 32,
    samples: int = 10_000,
    data_seed: int = 0,
    **common: Unpack[Common],
) -> DataBundle:
    """Classes in superclasses, after the synthetic study of Tang et al. (2020, 2002.03532).

    The paper's constants are not known to us: this is a generator with its knobs, in the style of
    Ma et al. (2018). Every superclass has a unit direction, orthogonal to the others; class k of it
    has the direction ``u_k = √s · superclass + √(1-s) · own``, so that two classes have cosine s
    within a superclass and 0 across. An input x is standard normal, and the score of class k is

    ``u_k·x + difficulty · √(2/m) Σ_{i=1..m} sin(a_i u_k·x + b_i) + noise · e``

    with random rates a in [1, 4] and phases b, and a standard normal e of its own for each sample
    and class; the label is the class with the largest score. ``superclasses["group"]`` is the
    hierarchy.

    Args:
        superclasses: number of superclasses, at least 1.
        classes: classes in each, at least 1; at least 2 in all.
        similarity: s, cosine of two classes of a superclass, in [0, 1).
        difficulty: how large the sines are beside the linear part, whose deviation is 1, at least
            0; with 0 a linear map is the best there is.
        sines: m, number of sine terms, at least 1.
        noise: weight of what no input tells, at least 0.
        dim: numbers in an input, at least superclasses * (classes + 1).
        samples: in all, of which 30 % are test.
        data_seed: of directions, inputs and noise; ``seed`` cuts train and validation alone.
        **common: options of every data set.

    Raises:
        RecipeError: a number out of range.
    """
    _check(superclasses, classes, dim, samples, sines)
    _require(0 <= similarity < 1, "similarity", similarity, "a number in [0, 1)")
    _require(difficulty >= 0, "difficulty", difficulty, "a number of at least 0")
    _require(noise >= 0, "noise", noise, "a number of at least 0")
    count = superclasses * classes
    rng = torch.Generator().manual_seed(data_seed)
    directions = class_directions(superclasses, classes, similarity, dim, rng)
    inputs = torch.randn(samples, dim, generator=rng, dtype=torch.float64)
    scores = class_scores(inputs @ directions.T, difficulty, sines, rng)
    scores += noise * torch.randn(samples, count, generator=rng, dtype=torch.float64)
    groups = torch.arange(count) // classes
    return bundle_from(
        (inputs.float(), scores.argmax(dim=1)),
        task="classification",
        num_classes=count,
        class_names=[f"{g}.{k}" for g in range(superclasses) for k in range(classes)],
        superclasses={"group": groups},
        test_size=TEST,
        test_seed=TEST_SEED,
        name="hierarchy",
        **common_options(common, validation=0.15),
    )


def class_directions(
    superclasses: int, classes: int, similarity: float, dim: int, rng: torch.Generator
) -> Tensor:
    """Return unit directions ``[superclasses * classes, dim]``, float64; see ``hierarchy``."""
    count = superclasses * classes
    table = torch.randn(dim, superclasses + count, generator=rng, dtype=torch.float64)
    basis = torch.linalg.qr(table).Q.T
    shared = basis[:superclasses].repeat_interleave(classes, dim=0)
    own: Tensor = basis[superclasses:]
    mixed: Tensor = math.sqrt(similarity) * shared + math.sqrt(1 - similarity) * own
    return mixed


def class_scores(
    projections: Tensor, difficulty: float, sines: int, rng: torch.Generator
) -> Tensor:
    """Return projections plus sines of them; see ``hierarchy``."""
    rates = 1 + 3 * torch.rand(sines, generator=rng, dtype=torch.float64)
    phases = 2 * math.pi * torch.rand(sines, generator=rng, dtype=torch.float64)
    scores = projections.clone()
    for rate, phase in zip(rates.tolist(), phases.tolist(), strict=True):
        scores += difficulty * math.sqrt(2 / sines) * (rate * projections + phase).sin()
    return scores


def _check(superclasses: int, classes: int, dim: int, samples: int, sines: int) -> None:
    _require(superclasses >= 1, "superclasses", superclasses, "a number of at least 1")
    _require(classes >= 1, "classes", classes, "a number of at least 1")
    _require(superclasses * classes >= 2, "classes", classes, "two classes in all")
    _require(sines >= 1, "sines", sines, "a number of at least 1")
    least = superclasses * (classes + 1)
    _require(dim >= least, "dim", dim, f"at least {least}, superclasses * (classes + 1)")
    _require(samples >= 10, "samples", samples, "a number of at least 10")


def _require(holds: bool, key: str, value: float, expected: str) -> None:
    if not holds:
        raise RecipeError(f"{key}: expected {expected}, got {value}")
