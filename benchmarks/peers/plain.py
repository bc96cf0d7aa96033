"""The job in plain torch, as one writes it without a library."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.peers.job import (
    BATCH,
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
    from torchvision import transforms

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
    optimizer = torch.optim.SGD(student.parameters(), LR, momentum=MOMENTUM, weight_decay=DECAY)

    def epoch() -> None:
        student.train()
        for x, y in loader:
            with torch.no_grad():
                t = F.log_softmax(teacher(x) / TEMPERATURE, 1)
            logits = student(x)
            s = F.log_softmax(logits / TEMPERATURE, 1)
            kl = F.kl_div(s, t, log_target=True, reduction="batchmean")
            loss = TASK * F.cross_entropy(logits, y) + KNOWLEDGE * TEMPERATURE**2 * kl
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    # to here
    turns.run(epoch)


if __name__ == "__main__":
    work(train)
