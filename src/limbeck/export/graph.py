"""The student's computation as a graph, for a batch of any size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from limbeck.errors import ExportError
from limbeck.export.formats import hushed
from limbeck.export.served import INPUT
from limbeck.export.subject import Subject


def capture(subject: Subject) -> ExportedProgram:
    """Follow two samples through the student with torch.export; the batch dimension stays free.

    The program holds no sample and no path of this machine.

    Raises:
        ExportError: torch.export cannot follow the forward, or it fixes the batch size.
    """
    args, kwargs, shapes = _call(subject)
    failure: Exception | None = None
    # Plain tracing takes len(x) for a constant; torch's second way reads the Python code instead.
    for strict in (False, True):
        try:
            with hushed():
                program = torch.export.export(
                    subject.served, args, kwargs, dynamic_shapes=shapes, strict=strict
                )
        except Exception as error:  # whatever a user's forward does under tracing
            failure = failure or error
            continue
        return _anonymous(program)
    raise ExportError(_why(failure)) from failure


def example_call(subject: Subject) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments, by position and by name, that the captured program takes."""
    args, kwargs, _ = _call(subject)
    return args, kwargs


def _call(subject: Subject) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
    example = subject.example
    if isinstance(example, Tensor):
        return (example,), {}, {INPUT: {0: Dim.DYNAMIC}}
    return (), dict(example), {name: _free(value) for name, value in example.items()}


def _free(value: Tensor) -> dict[int, Any]:
    """The batch is free, and so is the length of sequences of numbers where the student allows."""
    tokens = value.dim() == 2 and not value.is_floating_point()
    return {0: Dim.DYNAMIC, 1: Dim.AUTO} if tokens else {0: Dim.DYNAMIC}


def _anonymous(program: ExportedProgram) -> ExportedProgram:
    program._example_inputs = None  # real samples, and the only part that would be pickled
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)
    return program


def _why(error: Exception | None) -> str:
    text = " ".join(str(error).split())
    if "specialized it to be a constant" in text or "Constraints violated" in text:
        return (
            "the student's forward fixes the batch size, so that no graph for a batch of any size "
            "can be made: len(x) and int(x.shape[0]) are the usual reasons, write x.shape[0]"
        )
    return (
        f"torch.export cannot follow the student's forward: {text[:300]}; "
        "--to safetensors keeps the weights without it"
    )
