"""One rank of a job under torchrun: trains plans one after the other, in one group.

``ddp_job.py ROOT PLANS [DIE]``: runs that were begun go on; with DIE, rank 0 is killed inside the
DIE-th sync to disk.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from killing import die_at_sync
from separable_plans import make_separable_plan

from limbeck.engine.distributed import joined_world
from limbeck.engine.running import run_plan


def main(root: Path, names: list[str], die: int = 0) -> None:
    torch.set_num_threads(1)
    with joined_world() as world:
        if die and world.leads:
            die_at_sync(die)
        for name in names:
            begun = (root / name / "recipe.yaml").exists()
            world.barrier()
            run_plan(make_separable_plan(name), root / name, resume=begun, quiet=True)
    # A thread of the process group that outlives the interpreter aborts it, now and then. One that
    # is on its way out is given a moment.
    deadline = time.monotonic() + 10
    while any("gloo" in name for name in threads()):
        assert time.monotonic() < deadline, threads()
        time.sleep(0.05)


def threads() -> list[str]:
    """Names of this process's threads."""
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
