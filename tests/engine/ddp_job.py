"""One rank of a job under torchrun: trains plans one after the other, in one group.

``ddp_job.py ROOT PLANS [DIE]``: runs that were begun go on; with DIE, rank 0 is killed inside the
DIE-th sync to disk.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from killing import die_at_sync
from separable_plans import make_separable_plan

from limbeck.engine.running import run_plan


def main(root: Path, names: list[str], die: int = 0) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    if die and os.environ["RANK"] == "0":
        die_at_sync(die)
    for name in names:
        begun = (root / name / "recipe.yaml").exists()
        dist.barrier()
        run_plan(make_separable_plan(name), root / name, resume=begun, quiet=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
