"""How many threads each process takes, so that processes of one machine share its cores."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_VARIABLE = "OMP_NUM_THREADS"


def choose_threads(wanted: int | None) -> tuple[int, str]:
    """Return the threads of this process, and who says so.

    ``train.threads`` decides; else, where ``torchrun`` started several processes here, the user's
    OMP_NUM_THREADS, or the machine's cores divided by the processes (torchrun itself sets 1);
    else torch's own number.

    Args:
        wanted: ``train.threads``.
    """
    if wanted is not None:
        return wanted, "train.threads"
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if here == 1:
        return torch.get_num_threads(), "torch's own"
    said = os.environ.get(_VARIABLE, "")
    if said.isdigit() and int(said) >= 1 and not _set_by_torchrun(said):
        return int(said), _VARIABLE
    cores = _cores()
    return max(1, cores // here), f"{cores} core{'s' * (cores != 1)} for {here} processes"


def _cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _set_by_torchrun(said: str) -> bool:
    """Whether the variable is torchrun's 1 rather than the user's.

    torchrun sets it where the user did not. What torchrun itself was started with is in its
    environment on Linux; where that cannot be read, a 1 is taken for torchrun's.
    """
    if said != "1" or "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    try:
        given = Path(f"/proc/{os.getppid()}/environ").read_bytes()
    except OSError:
        return True
    return not any(entry.startswith(f"{_VARIABLE}=".encode()) for entry in given.split(b"\0"))
