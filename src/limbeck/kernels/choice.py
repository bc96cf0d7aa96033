"""Which form computes a divergence: a matter of shapes and of the machine, never of timing.

The plain form of ``limbeck.functional`` serves whatever must see inside the equation
(``torch.compile``, ``torch.func``, tracing, forward derivatives, tensor subclasses). Small logits
take it too, but for KL, whose gradient is written down beside its value ("direct"): of such a loss
most of the time is that of recording it and walking back. From ``FUSED_FROM`` logits on the fused
form serves, block by block; from ``COMPILED_FROM`` on, where torch can compile for the device (a
C++ compiler for a CPU, Triton for a GPU) and, on a CPU, a gradient is wanted, its blocks are
compiled, once for each kind of divergence and precision. The same run on the same machine
therefore always takes the same form, which is what bit-exact resume needs. ``LIMBECK_KERNELS``
narrows the choice.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad

Form = Literal["plain", "direct", "chunked", "compiled"]
Fastest = Literal["plain", "chunked", "compiled"]

FUSED_FROM = 2**18  # logits; below, three small kernels more or less are all that differs
COMPILED_FROM = 2**22  # logits; a compiler's 10 to 20 s come back in hundreds of steps
FEWEST_CLASSES = 64  # rows of fewer are too short for a loop of their own
VARIABLE = "LIMBECK_KERNELS"

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def form_for(student: Tensor, teacher: Tensor | None = None) -> Form:
    """Return the form that computes a divergence of these logits.

    Args:
        student: logits ``[*batch, classes]``.
        teacher: logits of the same shape; None where the teacher is not dense.

    Raises:
        ValueError: ``LIMBECK_KERNELS`` is set to something unknown.
    """
    if torch.compiler.is_compiling():  # first: nothing else here is for a compiler's eyes
        return "plain"
    if _all_is_seen() or _must_be_seen(student) or (teacher is not None and _must_be_seen(teacher)):
        return "plain"
    small = student.numel() < FUSED_FROM or student.shape[-1] < FEWEST_CLASSES
    if small and VARIABLE not in os.environ:  # of small logits the time goes into such questions
        return "direct"
    most = fastest(student.device.type)
    if most == "plain":
        return most
    if small:
        return "direct"
    if most != "compiled":
        return most
    large = student.numel() >= COMPILED_FROM
    often = student.device.type == "cuda"  # blocks suit a CPU's cache; a GPU waits for their starts
    often = often or (torch.is_grad_enabled() and student.requires_grad)
    return "compiled" if large and often else "chunked"


def fastest(device: str = "cpu") -> Fastest:
    """Return the fastest form that this process takes: ``LIMBECK_KERNELS``, and the machine.

    Args:
        device: type of device, "cpu" or "cuda".

    Raises:
        ValueError: ``LIMBECK_KERNELS`` is set to something unknown.
    """
    said = os.environ.get(VARIABLE, "compiled")
    if said == "compiled":
        return "compiled" if has_compiler(device) else "chunked"
    if said not in get_args(Fastest):
        raise ValueError(f"{VARIABLE} is {said!r}; expected one of {', '.join(get_args(Fastest))}")
    return said  # type: ignore[return-value]


@functools.cache
def has_compiler(device: str = "cpu") -> bool:
    """Whether torch can compile for the device here: a C++ compiler, or Triton, and dynamo not off.

    Only on Linux; for a GPU the C++ compiler is needed too, by Triton itself.
    """
    if sys.platform != "linux" or os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        return False
    if device == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            return False
    elif device != "cpu":
        return False
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "g++"))


def _all_is_seen() -> bool:
    """Whether every operation is looked at, on whatever tensor."""
    return torch._C._get_tracing_state() is not None or torch._C._are_functorch_transforms_active()


def _must_be_seen(tensor: Tensor) -> bool:
    """Whether something looks at the single operations on this tensor, or stands in for it."""
    return (
        type(tensor) not in (Tensor, torch.nn.Parameter)
        or tensor.dtype not in _FLOATS
        or tensor.is_mps
        or (forward_ad._current_level >= 0 and _is_dual(tensor))
    )


def _is_dual(tensor: Tensor) -> bool:
    """Whether a forward derivative is carried along, within the context that makes them."""
    return forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]
