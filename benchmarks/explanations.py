"""What an e²KD step costs over a KD step of the same networks, and what cuts it.

Epochs of the Distiller, loader and augmentation included, evaluation left out. GradCAM and input
gradients in every step; in every fourth; and with the teacher's answers and maps from a cache that
was warm (then beside KD from a cache of the same kind, which has no teacher to run either).

python -m benchmarks.explanations
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import add_clock, arguments, begin, compare, finish
from benchmarks.loop import begun, epochs_of
from limbeck.data import TensorSamples, bundle_from
from limbeck.engine.plan import Plan
from limbeck.engine.settings import Optimizer, Schedule, Train
from limbeck.methods import as_methods
from limbeck.models import build_model
from limbeck.teachers import CachedTeacher, LiveTeacher, Teacher

BATCH, STEPS = 64, 4
STUDENT, TEACHER = "resnet8", "resnet20"
ARMS: tuple[tuple[str, Mapping[str, Any], bool], ...] = (
    ("GradCAM", {}, False),
    ("GradCAM, every 4th step", {"every": 4}, False),
    ("GradCAM, frozen maps", {"frozen": True}, True),
    ("GradCAM, frozen maps, every 4th step", {"frozen": True, "every": 4}, True),
    ("input gradient", {"explainer": "input_gradient"}, False),
    ("input gradient, every 4th step", {"explainer": "input_gradient", "every": 4}, False),
    ("input gradient, frozen maps", {"explainer": "input_gradient", "frozen": True}, True),
)


def epochs(
    method: str | Mapping[str, Any], folder: Path | None, batch_size: int
) -> Callable[[], object]:
    """Return an epoch of the Distiller; with a folder, the teacher speaks from a cache there."""
    count = STEPS * batch_size
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    samples = TensorSamples(images, torch.arange(count) % 100)
    few = TensorSamples(images[:8], torch.arange(8))
    steps = [{"crop": {"padding": 4}}, "flip"]
    data = bundle_from(samples, few, few, num_classes=100, augment=steps, name="noise")
    teacher: Teacher = LiveTeacher(network(TEACHER))
    if folder is not None:
        teacher = CachedTeacher(teacher, folder, inputs="clean")
    plan = Plan(
        name="epoch",
        data=data,
        make_student=lambda: network(STUDENT),
        methods=as_methods(method),
        teachers={"teacher": teacher},
        train=Train(
            epochs=10_000,
            batch_size=batch_size,
            optimizer=Optimizer(lr=1e-6),  # no weight of a method makes the loss grow
            schedule=Schedule(name="constant"),
        ),
    )
    return epochs_of(begun(plan))


def network(name: str) -> torch.nn.Module:
    """Return a network of CIFAR's size."""
    return build_model(name, num_classes=100, input_shape=(3, 32, 32))


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "")
    add_clock(parser)
    parser.add_argument("--batch", type=int, default=BATCH, help=f"samples (default {BATCH})")
    parser.add_argument("--warmup", type=int, default=3, help="epochs first (default 3)")
    options = parser.parse_args()
    batch = options.batch
    begin(options)
    torch.set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as base:
        live, kept = epochs("kd", None, batch), epochs("kd", Path(base) / "kd", batch)
        for number, (name, settings, frozen) in enumerate(ARMS):
            folder = Path(base) / f"arm-{number}" if frozen else None
            ours = epochs({"name": "e2kd", **settings}, folder, batch)
            other = ("KD, cached", kept) if frozen else ("KD", live)
            results.append(
                compare(
                    f"{name}, {STUDENT} from {TEACHER}, batch {batch}",
                    ("e²KD", ours),
                    other,
                    pairs=options.pairs,
                    warmup=options.warmup,
                    clock=options.clock,
                )
            )
    finish(results, options)


if __name__ == "__main__":
    main()
