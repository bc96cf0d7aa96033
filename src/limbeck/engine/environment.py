"""What the run ran on: recorded, and compared on resume."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from limbeck._version import __version__
from limbeck.errors import LimbeckError
from limbeck.kernels import fastest

_DECIDES_BITS = ("torch", "threads", "world_size", "device", "gpu", "machine", "kernels")


def environment(world_size: int = 1, device: str = "cpu") -> dict[str, Any]:
    """Return versions, threads, platform, commit and command of this process."""
    return {
        "limbeck": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "device": device,
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "threads": torch.get_num_threads(),
        "world_size": world_size,
        "kernels": _kernels(device),
        "commit": _commit(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return, in words, what differs of that on which bit-exact resume depends."""
    return [
        f"{key} was {before.get(key)}, is {now.get(key)}"
        for key in _DECIDES_BITS
        if before.get(key, now.get(key)) != now.get(key)  # a record from before a key says nothing
    ]


def _kernels(device: str) -> str:
    """Return the fastest form that divergences of large logits take on the device."""
    try:
        return fastest(device)
    except ValueError as error:
        raise LimbeckError(str(error)) from None


@cache
def _commit() -> str | None:
    """Commit of the checkout in the working folder, or None outside of one."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
