"""The job that every side does: ResNet-8 learns from ResNet-56, images of CIFAR's size.

All sides train the same networks on the same images with the same loss (KD at temperature 4, 0.9,
beside the labels at 0.1), optimiser, batch, crop, flip and normalisation, in one thread. The images
are noise: nothing here depends on what they show.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from benchmarks.turns import Turns

BATCH, CLASSES = 128, 100
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
TEMPERATURE, TASK, KNOWLEDGE = 4.0, 0.1, 0.9
LR, MOMENTUM, DECAY = 0.05, 0.9, 5e-4
VIEWS = 4  # of each sample, where a teacher's answers are kept
FOREVER = 10_000  # epochs: a side trains until it is told to stop


@dataclass(frozen=True)
class Job:
    """What a side is told.

    Attributes:
        variant: which of a side's ways of training, where it has several.
        channels_last: whether images and weights are laid out so.
        reduced: whether the teacher computes in bfloat16 (autocast).
        folder: for what a side writes.
        images: uint8 ``[samples, 3, 32, 32]``.
        labels: int64 ``[samples]``.
    """

    variant: str
    channels_last: bool
    reduced: bool
    folder: Path
    images: Tensor
    labels: Tensor

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """Return student and teacher, in the layout and precision asked for."""
        student, teacher = self.plain_networks()
        if self.channels_last:
            for network in (student, teacher):
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return student, Reduced(teacher) if self.reduced else teacher

    def plain_networks(self) -> tuple[nn.Module, nn.Module]:
        """Return student and teacher, the same in every process."""
        from limbeck.models import build_model

        torch.manual_seed(0)
        form: dict[str, Any] = {"num_classes": CLASSES, "input_shape": (3, 32, 32)}
        student = build_model("resnet8", shortcut="conv", **form)
        teacher = build_model("resnet56", shortcut="conv", **form).eval()
        return student, teacher

    def collate(self, samples: list[Any]) -> Any:
        """Join samples to a batch as torch does; in the layout asked for."""
        batch = default_collate(samples)
        if self.channels_last:
            first = batch[0].contiguous(memory_format=torch.channels_last)
            batch = [first, *batch[1:]]
        return batch


class Reduced(nn.Module):
    """A teacher in bfloat16, as one gives it to a library that has no setting for that."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = self.network(inputs)
        return logits.float()


class Pictures(Dataset[Any]):
    """What torchvision's CIFAR100 is once it is read: arrays, shown as pictures one by one."""

    def __init__(self, job: Job, transform: Callable[[Any], Any], *, index: bool = False) -> None:
        self.data = job.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.targets = job.labels.tolist()
        self.transform, self.index = transform, index

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: int) -> tuple[Any, ...]:
        from PIL import Image

        image = self.transform(Image.fromarray(self.data[place]))
        target = self.targets[place]
        return (image, target, place) if self.index else (image, target)


def work(train: Callable[[Turns, Job], None]) -> None:
    """Do the job as a side: read the arguments, set one thread, train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--variant", default="")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--reduced", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    turns = Turns()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (options.images, 3, 32, 32), dtype=torch.uint8, generator=generator
    )
    labels = torch.arange(options.images) % CLASSES
    with tempfile.TemporaryDirectory() as folder:
        told = (options.variant, options.channels_last, options.reduced, Path(folder))
        train(turns, Job(*told, images, labels))
