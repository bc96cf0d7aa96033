"""The job in TextBrewer: with the teacher live, or with the batches and answers that it keeps.

What it keeps are the batches themselves, in memory: the same augmented view and the same samples
together in every epoch. Its loss has no T², so its weight has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.peers.job import (
    BATCH,
    DECAY,
    FOREVER,
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
    keep = job.variant == "cached"
    # what a user writes
    import textbrewer
    from torchvision import transforms

    class OfBatches(nn.Module):
        """Networks there are called with all that is in a batch."""

        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: Tensor, target: Tensor) -> Tensor:
            return self.network(image)

    def adapt_teacher(batch: Any, logits: Tensor) -> dict[str, Any]:
        return {"logits": logits}

    def adapt_student(batch: Any, logits: Tensor) -> dict[str, Any]:
        return {"logits": logits, "losses": F.cross_entropy(logits, batch[1])}

    student, teacher = OfBatches(plain_student).train(), OfBatches(plain_teacher).eval()
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
    distiller = textbrewer.BasicDistiller(
        textbrewer.TrainingConfig(output_dir=str(job.folder), device="cpu"),
        textbrewer.DistillationConfig(
            temperature=TEMPERATURE,
            kd_loss_weight=KNOWLEDGE * TEMPERATURE**2,
            hard_label_weight=TASK,
            is_caching_logits=keep,
        ),
        teacher,
        student,
        adapt_teacher,
        adapt_student,
    )

    def epochs(number: int) -> None:
        distiller.train(optimizer, loader, num_epochs=number)

    # to here
    if keep:
        distiller.logits_cache = Paced(turns)
        epochs(FOREVER)
    else:
        turns.run(lambda: epochs(1))


class Paced(list[Any]):
    """What is kept, gone through once a turn."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self.turns = turns

    def __iter__(self) -> Iterator[Any]:
        self.turns.begin()
        yield from super().__iter__()
        self.turns.end()


if __name__ == "__main__":
    work(train)
