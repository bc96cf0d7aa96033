"""One process of a distilling Lightning module under torchrun: ``lightning_job.py FILE``."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from foreign_loops import RATE, SEED, Rows, stream
from lightning.pytorch import Trainer
from safetensors.torch import save_file
from torch.utils.data import DataLoader, DistributedSampler
from trainer_job import net

import limbeck as lb
from limbeck.integrations.lightning import DistillationModule

METHOD = lb.KD() + lb.FitNet(weight=1.0, hint_epochs=1, projector="conv1x1")


def train(folder: Path, size: int, **changes: Any) -> DistillationModule:
    """Train in two stages, in one process or two; every label counts."""
    torch.manual_seed(1)
    teacher, student = net(8, 16), net(4, 8)
    module = DistillationModule(
        student,
        teacher,
        METHOD,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=RATE, momentum=0.9),
        example=stream()[0],
        seed=SEED,
    )
    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=2,
        **changes,
        accelerator="cpu",
        logger=False,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    rows = Rows(epochs=1)
    rank = int(os.environ.get("RANK", 0))
    sampler = DistributedSampler(rows, changes["devices"], rank, shuffle=False)
    trainer.fit(module, DataLoader(rows, batch_size=size, sampler=sampler))
    return module


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    path = Path(sys.argv[1])
    two = train(path.parent, 8, devices=2, strategy="ddp_find_unused_parameters_true")
    if two.global_rank == 0:
        state = two.distillation.state_dict()
        save_file({k: v.clone().contiguous() for k, v in state.items()}, path)
