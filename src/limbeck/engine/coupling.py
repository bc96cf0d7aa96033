"""What several processes and micro-batches mean for a run, in words."""

from __future__ import annotations

import os

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.engine.plan import Plan
from limbeck.methods.base import Method


def num_processes() -> int:
    """Return how many processes ``torchrun`` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def coupling_text(plan: Plan, student: nn.Module, processes: int) -> str | None:
    """Return what of a plan depends on how its steps are cut; None where steps are not cut.

    Args:
        plan: the run.
        student: what it trains.
        processes: how many train it.
    """
    accumulate = plan.train.accumulate
    if processes == 1 and accumulate == 1:
        return None
    parts = [text for m in plan.methods if (text := _of_method(m, processes, accumulate))]
    if any(isinstance(part, _BatchNorm) for part in student.modules()):
        parts.append("batch statistics are those of each process's own micro-batch")
    cut = [f"{processes} processes"] * (processes > 1) + [f"{accumulate} micro-batches"] * (
        accumulate > 1
    )
    share = f"each step is shared by {' and '.join(cut)}"
    return "; ".join([share, *(parts or ["the result is that of one, to rounding"])])


def _of_method(method: Method, processes: int, accumulate: int) -> str | None:
    """Return what one method's loss sees; None where it is a mean over samples."""
    unit = "micro-batch" if accumulate > 1 else "step"
    if method.coupling == "none":
        return None
    if method.coupling == "bank":
        known = "all processes" if processes > 1 else "all samples"
        text = f"{method.name} keeps one bank for {known}"
        return text + (", brought up to date after each micro-batch" if accumulate > 1 else "")
    if processes == 1 or method.compares_all_ranks:
        everyone = " of all processes" if processes > 1 else ""
        return f"{method.name} compares the samples of a {unit}{everyone}"
    return f"{method.name} compares the samples of a {unit} within each process"
