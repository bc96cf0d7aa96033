"""What a cached teacher costs beside none at all, and what it saves beside a live one.

First an epoch of KD from a warm cache over an epoch of plain training without a teacher: loader,
augmentation, logging and all, evaluation left out. Then whole trainings, each in a fresh cache:
30 epochs over 4 views, capture included, against the live teacher on the same views. With a forward
pass costing f_t in the teacher and f_s in the student, at most (3 f_s + f_t) / (3 f_s + 4/30 f_t).

python -m benchmarks.cached
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.harness import Ratio, arguments, begin, compare, finish
from benchmarks.loop import begun, epochs_of
from limbeck.data import DataBundle, TensorSamples, bundle_from, load_data
from limbeck.engine.plan import Plan
from limbeck.engine.settings import Optimizer, Schedule, Train
from limbeck.methods import as_methods
from limbeck.models import build_model
from limbeck.teachers import CachedTeacher, LiveTeacher, Teacher

VIEWS = 4
AUGMENT = [{"crop": {"padding": 2}}, "flip"]


@dataclass(frozen=True)
class Pair:
    """A student and a teacher on some data."""

    name: str
    data: DataBundle
    student: dict[str, Any]
    teacher: dict[str, Any]
    batch: int
    saves: str = ""  # promised of whole trainings, where the teacher is what they cost

    def network(self, options: dict[str, Any]) -> nn.Module:
        shape, classes = self.data.input_shape, self.data.num_outputs
        name = options["model"]
        rest = {key: value for key, value in options.items() if key != "model"}
        return build_model(name, num_classes=classes, input_shape=shape, **rest)


def pairs() -> list[Pair]:
    """Return digits with the default CNN, and ResNet-8 from ResNet-56 at CIFAR's size."""
    digits = load_data("digits", augment=AUGMENT)
    images = torch.randint(0, 256, (512, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(512) % 100
    few = TensorSamples(images[:64], labels[:64])
    cifar = bundle_from(
        TensorSamples(images, labels), few, few, num_classes=100, augment=AUGMENT, name="noise"
    )
    wide = {"model": "cnn", "channels": (64, 128)}
    return [
        Pair("digits, CNN from a wider CNN", digits, {"model": "cnn"}, wide, 64),
        Pair(
            "CIFAR size, ResNet-8 from ResNet-56",
            cifar,
            {"model": "resnet8"},
            {"model": "resnet56"},
            128,
            saves="≥ 1.8",
        ),
    ]


def plan_of(pair: Pair, method: str, teacher: Teacher | None, **train: Any) -> Plan:
    """Return the plan of a run without an end, over as many views as are cycled here.

    Its steps are too small to change anything. What a student has learned decides which way the
    branches of max pooling go, and so its cost: by a hundredth of a step.
    """
    settings = {"views": VIEWS, "batch_size": pair.batch, "optimizer": Optimizer(lr=1e-6), **train}
    return Plan(
        name="epoch",
        data=pair.data,
        make_student=lambda: pair.network(pair.student),
        methods=as_methods(method),
        teachers={} if teacher is None else {"teacher": teacher},
        train=Train(epochs=10_000, schedule=Schedule(name="constant"), **settings),
    )


def epoch(pair: Pair, method: str, teacher: Teacher | None) -> Callable[[], object]:
    """Return an epoch of the Distiller, without its evaluation."""
    return epochs_of(begun(plan_of(pair, method, teacher)))


def whole(pair: Pair, kind: str) -> Callable[[], object]:
    """Return a training of 30 epochs, from a live teacher or from a cache that begins empty."""
    module = pair.network(pair.teacher)

    def train() -> None:
        with tempfile.TemporaryDirectory() as folder:
            teacher: Teacher = LiveTeacher(module)
            if kind == "cached":
                teacher = CachedTeacher(teacher, Path(folder) / "cache")
            once = epoch(pair, "kd", teacher)
            for _ in range(30):
                once()

    return train


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument(
        "--trainings", type=int, default=5, help="pairs of trainings (default 5; 0: none)"
    )
    parser.add_argument("--only", default="", help="pairs whose name has this in it (default all)")
    options = parser.parse_args()
    begin(options)
    torch.set_num_threads(1)
    results: list[Ratio] = []
    known = pairs()
    meant = [pair for pair in known if options.only in pair.name]
    if not meant:
        names = "; ".join(pair.name for pair in known)
        parser.error(f"--only: no pair has {options.only!r} in its name; there are: {names}")
    for pair in meant:
        with tempfile.TemporaryDirectory() as folder:
            cache = CachedTeacher(pair.network(pair.teacher), Path(folder) / "cache")
            cached, plain = epoch(pair, "kd", cache), epoch(pair, "plain", None)
            results.append(
                compare(
                    f"an epoch, {pair.name}",
                    ("cached teacher", cached),
                    ("no teacher", plain),
                    pairs=options.pairs,
                    warmup=VIEWS,
                    bar="≤ 1.05",
                )
            )
    for pair in meant if options.trainings else ():
        results.append(
            compare(
                f"30 epochs, {VIEWS} views, capture included, {pair.name}",
                ("live", whole(pair, "live")),
                ("cached", whole(pair, "cached")),
                pairs=options.trainings,
                warmup=0,
                bar=pair.saves,
            )
        )
    finish(results, options)


if __name__ == "__main__":
    main()
