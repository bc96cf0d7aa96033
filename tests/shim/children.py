"""What processes that tests start can import."""

from __future__ import annotations

import os
from pathlib import Path


def let_children_import(folder: Path) -> None:
    """Put a folder on PYTHONPATH, in front of what is there (the shim of torchvision, say).

    The fork server of Python 3.11 finds what it preloads by PYTHONPATH alone.
    """
    there = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    if str(folder) not in there:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *there])
