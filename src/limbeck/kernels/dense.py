"""Divergences between two dense distributions, in blocks of rows."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from limbeck.kernels import bodies
from limbeck.kernels.blocks import blocks
from limbeck.kernels.choice import Form

CACHED = 2**16  # elements of a block that is run as it is: a handful of them fit a core's cache
FILLING = 2**24  # elements of a block that keeps a GPU busy
_COUNTED = 2**30  # elements that 32 bits count, with room

Kind = Literal["forward", "reverse", "mixture"]

_BODIES: dict[Kind, Callable[..., Tensor]] = {
    "forward": bodies.forward_kl,
    "reverse": bodies.reverse_kl,
    "mixture": bodies.mixture_kl,
}


@dataclass(frozen=True)
class Divergence:
    """What to compute, and in which form.

    Attributes:
        kind: "forward", "reverse" or "mixture".
        form: "chunked" or "compiled".
        teacher: logits ``[*batch, classes]``; fixed.
        temperature: T, a number or ``[*batch]``.
        weight: of every row, or ``[*batch]``.
        summed: add up the rows.
        beta: share of the teacher in the mixture.
    """

    kind: Kind
    form: Form
    teacher: Tensor
    temperature: float | Tensor
    weight: float | Tensor
    summed: bool
    beta: float = 0.5

    def __call__(self, student: Tensor, gradient: Tensor | None) -> Tensor:
        """Return the value, and fill ``gradient``."""
        dtype = working_dtype(student, self.teacher)
        cold = _column(student, 1 / self.temperature, dtype)
        weight = _column(student, self.weight, dtype)
        values = torch.empty_like(cold)
        teacher = self.teacher.detach()
        tensors = [student, teacher, cold, weight, values]
        tensors += [] if gradient is None else [gradient]
        body = self._body(dtype, student.device)
        with torch.no_grad(), torch.autocast(student.device.type, enabled=False):
            for block in blocks(tensors, block_size(self.form, student)):
                x, y, c, w, value = block[:5]
                slope = None if gradient is None else block[5]
                value.copy_(body(x, y, c, w, slope).unsqueeze(-1))
        rows = values.squeeze(-1)
        return rows.sum(dtype=torch.float64).to(dtype) if self.summed else rows

    def _body(self, dtype: torch.dtype, device: torch.device) -> Callable[..., Tensor]:
        body = _BODIES[self.kind]
        function = compiled(body) if self.form == "compiled" else body
        if self.kind != "mixture":
            return function
        return functools.partial(function, beta=torch.tensor(self.beta, dtype=dtype, device=device))


def block_size(form: Form, student: Tensor) -> int:
    """Return how many logits are gone over at once.

    On a GPU, compiled, all of them: what lies between stays in registers (reverse divergences and
    mixtures keep two tensors in working precision), and blocks were measured to be slower.
    """
    if student.device.type != "cpu":
        return FILLING if form == "chunked" else _COUNTED
    if form == "chunked":
        return CACHED
    # A compiled body keeps the exponentials of its block: a few hundredths of all logits.
    return min(2**19, student.numel() // 32)


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 where one of the tensors is, float32 otherwise."""
    wide = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if wide else torch.float32


@functools.cache
def compiled(body: Callable[..., Any]) -> Callable[..., Any]:
    """Return a body compiled for any number of rows and classes, or itself where that fails."""
    log, name = logging.getLogger("limbeck"), body.__name__
    log.warning(
        "compiling %s for large logits: some seconds, once (LIMBECK_KERNELS=chunked does without)",
        name,
    )
    function = torch.compile(body, fullgraph=True, dynamic=True)
    exc = torch._dynamo.exc

    def run(*arguments: Any, **options: Any) -> Any:
        nonlocal function
        try:
            return function(*arguments, **options)
        except (exc.TorchDynamoException, exc.FailOnRecompileLimitHit) as error:
            lines = [line for line in str(error).splitlines() if line] or [type(error).__name__]
            log.warning("%s cannot be compiled here and runs as it is: %s", name, lines[0])
            function = body
        return body(*arguments, **options)

    return run


def _column(student: Tensor, value: float | Tensor, dtype: torch.dtype) -> Tensor:
    """Return a number of each row, ``[*batch, 1]``."""
    shape = (*student.shape[:-1], 1)
    if isinstance(value, Tensor):
        return value.detach().to(dtype).reshape(shape)
    return torch.full(shape, value, dtype=dtype, device=student.device)
