"""One of the processes of a distilling Trainer under torchrun: ``trainer_job.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from foreign_loops import Rows
from safetensors.torch import save_file
from test_transformers_trainer import make

import limbeck as lb
from limbeck.models import build_model


def net(*channels: int) -> Any:
    """A network without batch statistics, which differ between processes."""
    return build_model("cnn", num_classes=10, input_shape=(1, 8, 8), channels=channels, norm="none")


def trainer_of(folder: Path, size: int) -> Any:
    """The same training in one process or two; a third of the labels is missing."""
    import torch

    rows = Rows("mapping")
    rows.targets[::3] = -100
    torch.manual_seed(1)
    method = lb.KD() + lb.FitNet(weight=1.0, projector="conv1x1")
    teacher, student = net(8, 16), net(4, 8)
    return make(
        method, folder, model=student, teacher=teacher, rows=rows, per_device_train_batch_size=size
    )


if __name__ == "__main__":
    root = Path(sys.argv[1])
    trainer = trainer_of(root / "two", 8)
    trainer.train()
    if trainer.is_world_process_zero():
        state = trainer.distillation.state_dict()
        save_file({k: v.clone() for k, v in state.items()}, root / "two.safetensors")
    trainer.accelerator.end_training()
