"""The job in torchdistill, from Python: its DistillationBox and the configuration it reads."""

from __future__ import annotations

import torch
from torch.utils.data import RandomSampler

from benchmarks.peers.job import (
    BATCH,
    DECAY,
    FOREVER,
    LR,
    MEAN,
    MOMENTUM,
    STD,
    TASK,
    TEMPERATURE,
    Job,
    Pictures,
    work,
)
from benchmarks.turns import Turns


def train(turns: Turns, job: Job) -> None:
    student, teacher = job.networks()
    # what a user writes
    from torchdistill.core.distillation import get_distillation_box
    from torchdistill.datasets.registry import register_collate_func
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    register_collate_func(job.collate, key="collate")
    config = {
        "num_epochs": FOREVER,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "collate_fn": "collate",
            "kwargs": {"batch_size": BATCH},
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {
            "key": "SGD",
            "kwargs": {"lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY},
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {
                "sub_terms": {
                    "kd": {
                        "criterion": {
                            "key": "KDLoss",
                            "kwargs": {
                                "student_module_path": ".",
                                "student_module_io": "output",
                                "teacher_module_path": ".",
                                "teacher_module_io": "output",
                                "temperature": TEMPERATURE,
                                "alpha": TASK,
                            },
                        },
                        "weight": 1.0,
                    }
                }
            },
        },
    }
    data = {"train": Pictures(job, transform)}
    cpu = torch.device("cpu")
    box = get_distillation_box(teacher, student, data, config, cpu, [], False, 1)

    def epoch() -> None:
        box.pre_epoch_process(epoch=0)
        for batch, targets, extra in box.train_data_loader:
            loss = box.forward_process(batch, targets, supp_dict=extra)
            box.post_forward_process(loss=loss)
        box.post_epoch_process()

    # to here
    turns.run(epoch)


if __name__ == "__main__":
    work(train)
