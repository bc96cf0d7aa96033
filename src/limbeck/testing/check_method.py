"""The contracts that every method keeps, as one call; public, so that others can test theirs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from limbeck.errors import MethodError, unknown
from limbeck.methods.base import Method
from limbeck.methods.card import Contract
from limbeck.methods.registry import make_method
from limbeck.testing import contracts, limits
from limbeck.testing.scene import Network, make_scene

_CHECKS = {
    "unwritten": contracts.unwritten,
    "zero_at_equality": contracts.zero_at_equality,
    "non_negative": contracts.non_negative,
    "permutation": contracts.permutation,
    "halves": contracts.halves,
    "ignored": contracts.ignored,
    "fixed_teacher": contracts.fixed_teacher,
    "gradient": contracts.gradient,
    "batch_one": limits.batch_one,
    "one_class": limits.one_class,
    "extreme_logits": limits.extreme_logits,
    "many_classes": limits.many_classes,
}


@dataclass(frozen=True)
class MethodReport:
    """What ``check_method`` found.

    Attributes:
        method: the method's name.
        terms: names of its terms; empty where it has none, so that most contracts say nothing.
        held: contracts that were checked and held.
        exempt: contracts that were not checked, each with the reason.
    """

    method: str
    terms: tuple[str, ...]
    held: tuple[str, ...]
    exempt: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"{self.method}: terms {', '.join(self.terms) or 'none'}"]
        lines += [f"  held    {name}" for name in self.held]
        lines += [f"  exempt  {name}: {reason}" for name, reason in self.exempt.items()]
        return "\n".join(lines)


def check_method(
    method: Method | type[Method] | str,
    *,
    make_student: Network | None = None,
    make_teacher: Network | None = None,
    input_shape: Sequence[int] = (1, 8, 8),
    device: str = "cpu",
) -> MethodReport:
    """Check that a method keeps the loss contracts, for every kind of task on its Card.

    The method works between made-up networks: answers are drawn at random, features have the
    shapes that its taps have in two small real networks, and logits hang on the features.

    - ``unwritten``: nothing that it is given is written to (no Card can exempt it);
    - ``zero_at_equality``: zero, with zero gradient, where student equals teacher;
    - ``non_negative``: no term is below zero;
    - ``permutation``: the order of samples means nothing;
    - ``halves``: two equal halves average to the whole, where the Card says ``separable``;
    - ``ignored``: samples without a label cost nothing in the task term and trouble no other; a
      method whose terms read labels says so, by ``supervision`` or ``of_each_sample``;
    - ``fixed_teacher``: no gradient reaches a teacher;
    - ``gradient``: the gradient is the numerical one, in float64;
    - ``batch_one``, ``one_class``: one sample; one class, or a refusal in one line;
    - ``extreme_logits``: up to ±1e4, float32 is within 1e-5 of the float64 value of the same
      rounded inputs, bfloat16 within 1e-2;
    - ``many_classes``: the same at 262,144 classes, where the Card sets no ``max_classes``.

    Args:
        method: the method, or its class or name for its default parameters.
        make_student: builds a student with so many outputs, where a small CNN will not do.
        make_teacher: likewise, for the teacher.
        input_shape: shape of one input of these networks.
        device: where the losses are computed, for example "cuda".

    Returns:
        Which contracts held, and which are exempt by the Card and why.

    Raises:
        AssertionError: names the method and the first contract that does not hold.
        MethodError: the Card exempts a contract that does not exist.

    >>> check_method("kd").exempt
    {}
    """
    method = _as_method(method)
    exempt: dict[str, str] = _exempt_by(method)
    held: list[str] = []
    options: dict[str, Any] = {
        "make_student": make_student,
        "make_teacher": make_teacher,
        "input_shape": input_shape,
        "device": device,
    }
    for name, check in _CHECKS.items():
        if name in exempt:
            continue
        for task in method.card.tasks:
            if name in ("many_classes", "one_class") and task != "classification":
                continue
            try:
                check(functools.partial(make_scene, method, task, **options))
            except AssertionError as error:
                raise AssertionError(f"{method.name}: {name} ({task}): {error}") from None
            except Exception as error:  # whatever a stranger's method raises
                error.add_note(f"while checking {name} ({task}) of method {method.name}")
                raise
        held.append(name)
    scene = make_scene(method, method.card.tasks[0], **options)
    return MethodReport(method.name, tuple(scene.terms()), tuple(held), exempt)


def _as_method(method: Method | type[Method] | str) -> Method:
    if isinstance(method, str):
        return make_method(method)
    return method() if isinstance(method, type) else method


def _exempt_by(method: Method) -> dict[str, str]:
    """Return the contracts not to check: those the Card names, and those other fields settle."""
    card = method.card
    for name, reason in card.exempt.items():
        if name not in get_args(Contract):
            raise MethodError(
                f"card of {method.name}: " + unknown("contract", name, get_args(Contract))
            )
        if not reason.strip():
            raise MethodError(f"card of {method.name}: exempts {name} without a reason")
    exempt = {str(name): reason for name, reason in card.exempt.items()}
    if not card.separable:
        exempt.setdefault("halves", "the card says that samples are compared with each other")
    if card.max_classes is not None:
        exempt.setdefault("many_classes", f"the card says at most {card.max_classes} classes")
    return exempt
