"""The job with timm's distillation task, in the loop that its training script has."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.peers.job import (
    BATCH,
    CLASSES,
    DECAY,
    KNOWLEDGE,
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
    from timm.task import LogitDistillationTask
    from torchvision import transforms

    student.num_classes, student.in_chans = CLASSES, 3
    student.pretrained_cfg = teacher.pretrained_cfg = {"mean": MEAN, "std": STD}
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    data = Pictures(job, transform)
    loader = DataLoader(data, BATCH, shuffle=True, collate_fn=job.collate)
    task = LogitDistillationTask(
        student,
        teacher,
        criterion=nn.CrossEntropyLoss(),
        task_loss_weight=TASK,
        distill_loss_weight=KNOWLEDGE,
        temperature=TEMPERATURE,
    )
    optimizer = torch.optim.SGD(student.parameters(), LR, momentum=MOMENTUM, weight_decay=DECAY)

    def epoch() -> None:
        task.train()
        for image, target in loader:
            optimizer.zero_grad()
            task(image, target)["loss"].backward()
            optimizer.step()

    # to here
    turns.run(epoch)


if __name__ == "__main__":
    work(train)
