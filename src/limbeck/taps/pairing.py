"""Which layer of the student learns from which layer of the teacher."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from limbeck.errors import ShapeError, TapError
from limbeck.models.calling import call_model, evaluating
from limbeck.taps.hooks import tapping
from limbeck.taps.resolve import resolve_taps
from limbeck.taps.roles import Call, Roles, declares_head, infer_roles, roles_of, unwrap

Shape: TypeAlias = tuple[int, ...]
_BY_DEPTH = {"stages", "preactivations"}
Pairs: TypeAlias = "str | Sequence[str | tuple[str, str] | list[str]]"


@dataclass(frozen=True)
class TapPair:
    """A tap of the student and the tap of the teacher it learns from, with their shapes.

    Shapes include the batch dimension of the example they were measured on.
    """

    student: str
    teacher: str
    student_shape: Shape
    teacher_shape: Shape

    @property
    def names(self) -> tuple[str, str]:
        """Both names, student first."""
        return self.student, self.teacher


def tap_shapes(
    model: nn.Module,
    taps: str | Sequence[str],
    example: Any,
    *,
    roles: Roles | None = None,
    call: Call = call_model,
) -> dict[str, Shape]:
    """Shapes of the tapped tensors, by tap name, from one forward pass in eval mode.

    Of a cohort, the first member is measured. ``call(model, example)`` runs a network that is not
    called as ``model(example)``.
    """
    model = first_member(model)
    with tapping(model, taps, roles=roles) as store, evaluating(model):
        call(model, example)
    return {name: tuple(tensor.shape) for name, tensor in store.items()}


def pair_taps(
    student: nn.Module,
    teacher: nn.Module,
    pairs: Pairs = "auto",
    *,
    student_example: Any,
    teacher_example: Any = None,
    student_roles: Roles | None = None,
    teacher_roles: Roles | None = None,
    student_call: Call = call_model,
    teacher_call: Call = call_model,
) -> list[TapPair]:
    """Pair layers of two networks.

    Args:
        student: the student, or a cohort of students alike.
        teacher: the teacher.
        pairs: "auto" pairs the stages (see ``align_stages``); any tap ("penultimate",
            "stages[-1]", "layer2") pairs it with the tap of the same name; a list has such names,
            or ``(student tap, teacher tap)``.
        student_example: inputs of the student.
        teacher_example: inputs of the teacher; None for the student's.
        student_roles: roles to use instead of the student's own.
        teacher_roles: roles to use instead of the teacher's own.
        student_call: ``call(student, example)`` where it is not called as ``student(example)``.
        teacher_call: likewise.

    Each network is run once or twice, in eval mode without gradients. A tap by a role that the
    network itself does not declare comes back as the module's path, so that it can be tapped
    without asking for the roles again.

    Raises TapError for taps that a network does not have, ShapeError where one name gives unequal
    numbers of taps.
    """
    teacher_example = student_example if teacher_example is None else teacher_example
    student, teacher = first_member(student), first_member(teacher)
    wanted = _as_pairs(pairs)
    ours = _Side(student, student_example, student_roles, student_call)
    theirs = _Side(teacher, teacher_example, teacher_roles, teacher_call)
    ours.learn_roles([pair[0] for pair in wanted])
    theirs.learn_roles([pair[1] for pair in wanted])
    student_sides = [ours.shapes(pair[0]) for pair in wanted]
    teacher_sides = [theirs.shapes(pair[1]) for pair in wanted]
    found: list[TapPair] = []
    for pair, of_student, of_teacher in zip(wanted, student_sides, teacher_sides, strict=True):
        matches = _match(pair, of_student, of_teacher)
        found += [
            TapPair(ours.lasting(s), theirs.lasting(t), of_student[s], of_teacher[t])
            for s, t in matches
        ]
    return found


class _Side:
    """One of the two networks, with what is known of its roles."""

    def __init__(self, model: nn.Module, example: Any, roles: Roles | None, call: Call) -> None:
        self.model, self.example, self.roles, self.call = model, example, roles, call

    def learn_roles(self, taps: Sequence[str]) -> None:
        """Run the network once where a tap is by a role that it does not declare."""
        if self.roles is not None:
            return
        roles = {re.split(r"[.\[:]", tap)[0] for tap in taps}
        stages = "stages" in roles and "stages" not in roles_of(self.model)
        head = bool(roles & {"head", "penultimate"}) and not declares_head(self.model)
        if stages or head:
            self.roles = infer_roles(self.model, self.example, call=self.call, stages=stages)

    def shapes(self, tap: str) -> dict[str, Shape]:
        """Return the shapes at a tap, by name."""
        if tap.startswith("stages") and getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            raise TapError(
                f"the stages of {type(self.model).__name__} are maps [batch, height, width, "
                "channels], which no projector reads: pair vectors (pairs: penultimate)"
            )
        return tap_shapes(self.model, tap, self.example, roles=self.roles, call=self.call)

    def lasting(self, name: str) -> str:
        """Return a name that the network resolves without the roles found here."""
        if self.roles is None:
            return name
        (resolved,) = resolve_taps(self.model, name, roles=self.roles)
        try:
            if resolve_taps(self.model, name) == [resolved]:
                return name
        except TapError:
            pass
        return f"{resolved.path}:in" if resolved.side == "in" else resolved.path


def align_stages(
    student: Mapping[str, Shape], teacher: Mapping[str, Shape]
) -> list[tuple[str, str]]:
    """Pair two lists of stages, in order of depth, each student stage at most once.

    Equal numbers pair one to one. Otherwise stages whose spatial size (or token count) is the
    same in both pair up, from the end, where that serves every stage of the shorter list; else
    each stage of the shorter list pairs with the one at the same relative depth in the longer.

    >>> align_stages({"a": (1, 8, 16, 16), "b": (1, 8, 8, 8)},
    ...              {"p": (1, 4, 32, 32), "q": (1, 4, 16, 16), "r": (1, 4, 8, 8)})
    [('a', 'q'), ('b', 'r')]
    """
    ours, theirs = list(student), list(teacher)
    if len(ours) > len(theirs):
        return [(mine, other) for other, mine in align_stages(teacher, student)]
    if len(ours) < len(theirs):
        chosen = _same_sizes(student, teacher) or [
            theirs[round((i + 1) * len(theirs) / len(ours)) - 1] for i in range(len(ours))
        ]
        theirs = chosen
    return list(zip(ours, theirs, strict=True))


def first_member(model: nn.Module) -> nn.Module:
    """Return the first network of a cohort, any other model unwrapped."""
    model = unwrap(model)
    if getattr(model, "is_cohort", False):
        return model.get_submodule("members.0")
    return model


def _same_sizes(student: Mapping[str, Shape], teacher: Mapping[str, Shape]) -> list[str] | None:
    """For each student stage, from the end, the last unused teacher stage of its size."""
    left = list(teacher.items())
    chosen: list[str] = []
    for shape in reversed(list(student.values())):
        while left and _size(left[-1][1]) != _size(shape):
            left.pop()
        if not left:
            return None
        chosen.append(left.pop()[0])
    return chosen[::-1]


def _size(shape: Shape) -> tuple[int, Shape]:
    """Number of dimensions and spatial size of maps, token count of tokens."""
    return len(shape), shape[2:] if len(shape) == 4 else shape[1:-1]


def _as_pairs(pairs: Pairs) -> list[tuple[str, str]]:
    if isinstance(pairs, str):
        name = "stages" if pairs == "auto" else pairs
        return [(name, name)]
    result: list[tuple[str, str]] = []
    for pair in pairs:
        both = (pair, pair) if isinstance(pair, str) else tuple(pair)
        if len(both) != 2 or not all(isinstance(side, str) for side in both):
            raise TapError(f"a pair is (student tap, teacher tap), got {pair!r}")
        result.append((both[0], both[1]))
    if not result:
        raise TapError("pairs is empty: name at least one (student tap, teacher tap), or 'auto'")
    return result


def _match(
    pair: tuple[str, str], student: Mapping[str, Shape], teacher: Mapping[str, Shape]
) -> list[tuple[str, str]]:
    if set(pair) <= _BY_DEPTH:
        return align_stages(student, teacher)
    if len(student) != len(teacher):
        raise ShapeError(
            f"pair {pair}: {len(student)} taps of the student ({', '.join(student)}) against "
            f"{len(teacher)} of the teacher ({', '.join(teacher)}): name the pairs one by one"
        )
    return list(zip(student, teacher, strict=True))
