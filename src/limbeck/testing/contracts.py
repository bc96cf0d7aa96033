"""The loss contracts of methods at ordinary values: each a function that raises AssertionError."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from limbeck.testing.scene import Scene, unlabelled

Make: TypeAlias = Callable[..., Scene]
"""Makes a scene of the method under test; takes the keywords of ``make_scene``."""

_EXACT = 1e-12
_ROUNDING = 1e-10


def zero_at_equality(make: Make) -> None:
    """The knowledge terms and their gradients are zero where the teacher says the same."""
    scene = make(equal=True)
    terms, gradients = scene.differentiated()
    for name, value in terms.items():
        assert name == "task" or abs(float(value.detach())) <= _EXACT, (
            f"term {name} is {float(value.detach()):.3g} where student equals teacher, not 0"
        )
    if scene.method.card.replaces_task:
        return
    steepest = max(float(slope.abs().max()) for slope in gradients)
    assert steepest <= _ROUNDING, f"gradient {steepest:.3g} where student equals teacher, not 0"


def non_negative(make: Make) -> None:
    """No term is ever below zero."""
    for seed, scale in enumerate((1e-3, 0.1, 1.0, 3.0, 30.0, 100.0)):
        for name, value in make(scale=scale, seed=seed).terms().items():
            assert float(value.detach()) >= -_EXACT, (
                f"term {name} is {float(value.detach()):.3g} at logits up to {scale}"
            )


def permutation(make: Make) -> None:
    """The order of the samples in a batch means nothing."""
    scene = make()
    count = len(scene.batch)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(3)).tolist()
    _same(scene.terms(), scene.terms(order), "in another order")


def halves(make: Make) -> None:
    """Two equal halves average to the whole."""
    scene = make()
    half = len(scene.batch) // 2
    first, second = scene.terms(range(half)), scene.terms(range(half, 2 * half))
    mean = {name: (first[name] + second[name]) / 2 for name in first}
    _same(scene.terms(range(2 * half)), mean, "as the mean of its halves")


def ignored(make: Make) -> None:
    """Samples without a label cost nothing in the task term, and are no trouble elsewhere.

    A method that says "no labels" gives the same whatever the labels are; so do the knowledge terms
    of any other that needs none and does nothing with that ``of_each_sample``.
    """
    scene = make()
    card, batch = scene.method.card, scene.batch
    assert batch.targets is not None
    nothing = dataclasses.replace(scene, batch=batch.replace(targets=unlabelled(batch.targets)))
    said = nothing.terms()
    for name, value in said.items():
        assert bool(torch.isfinite(value)), f"term {name} is not finite without any label"
    if card.replaces_task:
        assert float(said["task"].detach()) == 0, "the task term is not 0 without any label"
        half = len(batch) // 2
        targets = torch.cat([batch.targets[:half], unlabelled(batch.targets[half:])])
        mixed = dataclasses.replace(scene, batch=batch.replace(targets=targets)).terms()["task"]
        alone = scene.terms(range(half))["task"]
        _same({"task": alone}, {"task": mixed}, "with samples that have no label")
    if card.supervision == "no labels":
        _same(scene.terms(), said, "without labels, though its card says it needs none")
    elif card.supervision == "labels optional" and not scene.method.of_each_sample:
        first, second = ({k: v for k, v in x.items() if k != "task"} for x in (scene.terms(), said))
        _same(first, second, "without labels, and its of_each_sample does not say what for")


def fixed_teacher(make: Make) -> None:
    """No gradient reaches a teacher: neither what it is heard saying nor what it is asked."""
    scene = make()
    watched = tuple(teacher.watched() for teacher in scene.teachers)
    total = dataclasses.replace(scene, teachers=watched).total()
    if not total.requires_grad:
        return
    leaves = [tensor for teacher in watched for tensor in teacher.tensors]
    for gradient in torch.autograd.grad(total, leaves, allow_unused=True):
        assert gradient is None or not bool(gradient.any()), "a gradient reaches the fixed teacher"


def unwritten(make: Make) -> None:
    """No tensor that ``losses`` is given is written to."""
    moment = make().at_work()
    tensors = moment.tensors()
    before = {name: (value._version, value.detach().clone()) for name, value in tensors.items()}
    moment.terms()
    for name, value in tensors.items():
        version, copy = before[name]
        same = torch.equal(value.detach().nan_to_num(), copy.nan_to_num())
        assert same, f"{name} were written to"
        assert value._version == version, f"{name} were written to (the same values)"


def gradient(make: Make) -> None:
    """The gradient is the slope of the value, in float64, along random directions."""
    scene = make()
    scene = dataclasses.replace(scene, student=dataclasses.replace(scene.student, moves=True))
    slopes = scene.gradients()
    leaves = scene.student.tensors
    generator = torch.Generator().manual_seed(7)
    for _ in range(3):
        drawn = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in leaves]
        ways = [way.to(x) for way, x in zip(drawn, leaves, strict=True)]
        claimed = sum(float((slope * way).sum()) for slope, way in zip(slopes, ways, strict=True))
        measured = _slope(scene, ways)
        assert abs(claimed - measured) <= 1e-5 * max(abs(measured), 1e-3), (
            f"the gradient says {claimed:.6g} along a direction, the value changes {measured:.6g}"
        )


def _slope(scene: Scene, ways: list[Tensor], step: float = 1e-5) -> float:
    """Central difference of the total along ``ways``."""

    def at(distance: float) -> float:
        pairs = zip(scene.student.tensors, ways, strict=True)
        moved = scene.student.with_tensors([x + distance * way for x, way in pairs])
        return float(dataclasses.replace(scene, student=moved).total().detach())

    return (at(step) - at(-step)) / (2 * step)


def _same(first: dict[str, Tensor], second: dict[str, Tensor], how: str) -> None:
    assert first.keys() == second.keys(), f"terms {set(first)} become {set(second)} {how}"
    for name in first:
        a, b = float(first[name].detach()), float(second[name].detach())
        assert abs(a - b) <= _ROUNDING * max(1.0, abs(a)), (
            f"term {name} is {a:.12g}, and {b:.12g} {how}"
        )
