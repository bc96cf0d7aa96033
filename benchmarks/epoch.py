"""An epoch of Fashion-MNIST with random crop and flip, a small CNN student, no teacher.

Ours keeps the images in memory as bytes and augments whole batches. The other side is plain torch
as it is usually written: a Dataset that transforms each sample, and a DataLoader with 0 or 2
workers, whichever is faster.

python -m benchmarks.epoch --root FOLDER_WITH_FASHION_MNIST
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.harness import arguments, begin, compare, finish
from benchmarks.loop import begun, epochs_of
from limbeck.data import load_data
from limbeck.data.bundle import DataBundle
from limbeck.engine.plan import Plan
from limbeck.engine.settings import Schedule, Train
from limbeck.methods import as_methods
from limbeck.models import build_model

BATCH = 128
MEAN, STD = 0.2860, 0.3530


def student() -> nn.Module:
    return build_model("cnn", num_classes=10, input_shape=(1, 28, 28), channels=(4, 8))


class Transformed(Dataset[tuple[Tensor, int]]):
    """Fashion-MNIST, one sample at a time: pad, crop, flip, scale, normalise."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = F.pad(self.images[index], (4, 4, 4, 4))
        top, left = random.randrange(9), random.randrange(9)
        image = image[:, top : top + 28, left : left + 28]
        if random.random() < 0.5:
            image = image.flip(2)
        return (image.float() / 255 - MEAN) / STD, int(self.labels[index])


def plain(images: Tensor, labels: Tensor, workers: int) -> Callable[[], object]:
    """Return an epoch of plain torch."""
    loader = DataLoader(
        Transformed(images, labels), batch_size=BATCH, shuffle=True, num_workers=workers
    )
    model = student().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)

    def epoch() -> None:
        for x, y in loader:
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    return epoch


def ours(data: DataBundle) -> Callable[[], object]:
    """Return an epoch of the Distiller, without its evaluation."""
    plan = Plan(
        name="epoch",
        data=data,
        make_student=student,
        methods=as_methods("plain"),
        train=Train(epochs=10_000, batch_size=BATCH, schedule=Schedule(name="constant")),
    )
    return epochs_of(begun(plan))


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--root", required=True, help="folder with the official idx.gz files")
    parser.add_argument("--samples", type=int, default=6000, help="training images an epoch")
    options = parser.parse_args()
    begin(options)
    torch.set_num_threads(1)
    data = load_data("fashion-mnist", root=options.root, augment=[{"crop": {"padding": 4}}, "flip"])
    view = data.splits["train"]
    view = view.select(view.indices[: options.samples])
    raw = view.fetch(torch.arange(len(view)))
    data = data.with_train(replace(view))
    assert raw.targets is not None
    results = [
        compare(
            f"epoch of {len(view):,} images, crop and flip, small CNN",
            (f"plain torch, {workers} workers", plain(raw.inputs, raw.targets, workers)),
            ("Limbeck", ours(data)),
            pairs=options.pairs,
            warmup=1,
            bar="≥ 1.3",
        )
        for workers in (0, 2)
    ]
    finish(results, options)


if __name__ == "__main__":
    main()
