"""The job in RepDistiller's loop (github.com/HobbitLong/RepDistiller, a checkout)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
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
    plain_student, plain_teacher = job.networks()
    # what a user writes
    from distiller_zoo import DistillKL
    from helper.loops import train_distill
    from torchvision import transforms

    class WithFeatures(nn.Module):
        """Networks there give features and logits."""

        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: Tensor, **_: Any) -> tuple[list[Tensor], Tensor]:
            return [], self.network(image)

    student, teacher = WithFeatures(plain_student), WithFeatures(plain_teacher)
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    data = Pictures(job, transform, index=True)
    loader = DataLoader(data, BATCH, shuffle=True, collate_fn=job.collate)
    divergence = DistillKL(TEMPERATURE)
    criteria = nn.ModuleList([nn.CrossEntropyLoss(), divergence, divergence])
    optimizer = torch.optim.SGD(student.parameters(), LR, momentum=MOMENTUM, weight_decay=DECAY)
    networks = nn.ModuleList([student, teacher])
    opt = SimpleNamespace(distill="kd", gamma=TASK, alpha=KNOWLEDGE, beta=0.0, print_freq=100)

    def epoch() -> None:
        train_distill(1, loader, networks, criteria, optimizer, opt)

    # to here
    turns.run(epoch)


if __name__ == "__main__":
    work(train)
