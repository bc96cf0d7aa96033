"""The loss contracts of methods at the limits: huge logits, one class, very many, one sample."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.testing.contracts import Make
from limbeck.testing.scene import Scene

MANY_CLASSES = 262_144
_EXTREME = 1e4
_FLOOR = 1e-12  # below it a value is nothing, whatever its relative error


def extreme_logits(make: Make) -> None:
    """At logits up to ±1e4 reduced precision gives the float64 value of the same rounded inputs.

    To 1e-5 in float32, to 1e-2 in bfloat16 (which is accumulated in float32).
    """
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        for scale in (1.0, _EXTREME):
            narrow = make(scale=scale).cast(dtype)
            _close(narrow, narrow.cast(torch.float64), tolerance, f"{dtype}, logits up to {scale}")


def many_classes(make: Make) -> None:
    """262,144 classes cost memory linear in their number, and no accuracy."""
    scene = make(num_outputs=MANY_CLASSES, num_samples=2).cast(torch.float32)
    _close(scene, scene.cast(torch.float64), 1e-5, f"float32, {MANY_CLASSES} classes")


def one_class(make: Make) -> None:
    """One class gives finite values, or a refusal in one line."""
    refusal = "one class is not enough"
    try:
        _finite(make(num_outputs=1), "with one class")
    except (LimbeckError, ValueError) as error:
        refusal = str(error)
    assert len(refusal.splitlines()) == 1, f"refuses one class, not in one line: {refusal!r}"


def batch_one(make: Make) -> None:
    """A batch of one sample gives finite values and gradients."""
    _finite(make(num_samples=1), "for a batch of one sample")


def _close(narrow: Scene, wide: Scene, tolerance: float, where: str) -> None:
    said, meant = _finite(narrow, f"in {where}"), wide.terms()
    for name, value in said.items():
        a, b = float(value.detach()), float(meant[name].detach())
        assert abs(a - b) <= tolerance * abs(b) + _FLOOR, (
            f"term {name} is {a:.9g} in {where}, and {b:.9g} in float64"
        )


def _finite(scene: Scene, where: str) -> dict[str, Tensor]:
    """Return the terms, finite and with finite gradients."""
    terms, gradients = scene.differentiated()
    for name, value in terms.items():
        assert bool(torch.isfinite(value)), f"term {name} is {float(value.detach())} {where}"
    for gradient in gradients:
        assert bool(torch.isfinite(gradient).all()), f"a gradient is not finite {where}"
    return terms
