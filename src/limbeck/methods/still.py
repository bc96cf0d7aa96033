"""A student held still in part: without dropout, with embeddings of its teacher."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from limbeck.errors import MethodError

Kept = list[tuple[str, str, float]]
"""What was set to 0: path of the module, attribute, and its value before."""


def silence_dropout(student: nn.Module, inside: str = "") -> Kept:
    """Set every dropout rate inside a part to 0, that of attention included.

    Args:
        student: the network.
        inside: path of the part; "": all of it.

    Returns:
        What to give to :func:`restore_dropout`.
    """
    changed: Kept = []
    part = student.get_submodule(inside)
    for name, module in part.named_modules(prefix=inside):
        for attribute, rate in _rates(module):
            changed.append((name, attribute, rate))
            setattr(module, attribute, 0.0)
    return changed


def restore_dropout(student: nn.Module, changed: Kept) -> None:
    """Give a student, or a copy of it, its rates back."""
    for name, attribute, rate in changed:
        setattr(student.get_submodule(name), attribute, rate)


def _rates(module: nn.Module) -> Iterator[tuple[str, float]]:
    if isinstance(module, _DropoutNd):
        if module.p > 0:
            yield "p", module.p
        return
    # Rates that are handed to functions: of attention, and in the blocks of some networks.
    for attribute, value in list(vars(module).items()):
        if attribute.endswith("dropout") and isinstance(value, float) and value > 0:
            yield attribute, value


@torch.no_grad()
def take_over(
    method: str, student: nn.Module, path: str, teacher: nn.Module, its_path: str
) -> list[str]:
    """Copy a part of the teacher's into the student, and freeze it there.

    Returns:
        Names of the student's parameters that were frozen, to be thawed when it is deployed.

    Raises:
        MethodError: the two parts have other parameters.
    """
    ours = student.get_submodule(path).state_dict()
    theirs = teacher.get_submodule(its_path).state_dict()
    for name in {**ours, **theirs}:
        shapes = [list(side[name].shape) if name in side else None for side in (ours, theirs)]
        if shapes[0] != shapes[1]:
            told = ["nothing" if shape is None else str(shape) for shape in shapes]
            raise MethodError(
                f"method.embeddings: the teacher's cannot be copied: {name} is {told[0]} in the "
                f"student's {path}, {told[1]} in the teacher's {its_path}; make them alike, or set "
                f"embeddings: own ({method})"
            )
    part = student.get_submodule(path)
    part.load_state_dict(theirs)
    inside = {id(value) for value in part.parameters() if value.requires_grad}
    frozen = [name for name, value in student.named_parameters() if id(value) in inside]
    part.requires_grad_(False)
    return frozen


def thaw(student: nn.Module, names: list[str]) -> None:
    """Let parameters learn again, in a student or a copy of it."""
    known = dict(student.named_parameters())
    for name in names:
        known[name].requires_grad_(True)
