"""What a step costs over its floor: student forward and backward, teacher forward, the update.

The floor is a plain torch loop with ``F.kl_div`` and cross-entropy. Ours is the Distiller's own
step, logging, checks and schedule included. Then hooks: operations and copies, counted.

python -m benchmarks.step
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.harness import Ratio, arguments, begin, compare, finish
from benchmarks.loop import begun
from limbeck.data import TensorSamples, bundle_from
from limbeck.data.batch import Batch
from limbeck.engine.distiller import Distiller
from limbeck.engine.distributed import pick_device
from limbeck.engine.plan import Plan
from limbeck.engine.settings import Optimizer, Schedule, Train
from limbeck.methods import as_methods
from limbeck.models import build_model
from limbeck.taps import TappedModel
from limbeck.teachers import LiveTeacher

BATCH = 128


def network(name: str) -> nn.Module:
    return build_model(name, num_classes=100, input_shape=(3, 32, 32))


def distiller_of(
    method: Any, student: str, teacher: str, batch_size: int = BATCH
) -> Callable[[], object]:
    """Return the Distiller's step on a fixed batch."""
    images, labels = torch.rand(4 * batch_size, 3, 32, 32), torch.arange(4 * batch_size) % 100
    data = bundle_from(TensorSamples(images, labels), num_classes=100)
    plan = Plan(
        name="step",
        data=data,
        make_student=lambda: network(student),
        methods=as_methods(method),
        teachers={"teacher": LiveTeacher(network(teacher))},
        train=Train(
            epochs=10_000,
            batch_size=batch_size,
            optimizer=Optimizer(lr=1e-6),  # no weight of a method makes the loss grow
            schedule=Schedule(name="constant"),
        ),
    )
    run = begun(plan)
    ((batch,), *_) = run._batches()  # of training samples, as methods with a memory need
    return step_of(run, batch)


def step_of(run: Distiller, batch: Batch) -> Callable[[], object]:
    """Return a run's step on one batch, again and again."""
    run.parts.module.train()

    def step() -> None:
        run._train_step([batch], 0.0, 0.1)
        run.position.step += 1
        if run.position.step % run.train.log_every == 0:
            run._flush()

    return step


def floor(student: str, teacher: str) -> Callable[[], object]:
    """Return the same step written out in plain torch."""
    device = pick_device()
    images, labels = torch.rand(BATCH, 3, 32, 32).to(device), torch.arange(BATCH).to(device) % 100
    ours, theirs = network(student).train().to(device), network(teacher).eval().to(device)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        with torch.no_grad():
            t = theirs(images)
        s = ours(images)
        kl = F.kl_div(
            F.log_softmax(s / 4, 1), F.log_softmax(t / 4, 1), log_target=True, reduction="batchmean"
        )
        loss = 0.1 * F.cross_entropy(s, labels) + 0.9 * 16 * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


class Operations(TorchDispatchMode):
    """Counts the operations that reach the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def count_tap_operations() -> tuple[int, int]:
    """Return the operations of a forward without taps, and with taps on three stages."""
    images, counts = torch.rand(2, 3, 32, 32), []
    for taps in ((), ("stages",)):
        model = network("resnet20").eval()
        with TappedModel(model, taps) as tapped, Operations() as operations, torch.no_grad():
            tapped(images)
            counts.append(operations.count)
    return counts[0], counts[1]


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__ or "").parse_args()
    begin(options)
    torch.set_num_threads(1)
    results: list[Ratio] = []
    for student, teacher, bar in (("resnet20", "resnet56", "≤ 1.05"), ("mlp", "mlp", "")):
        results.append(
            compare(
                f"KD step, {student} from {teacher}, batch {BATCH}",
                ("Limbeck", distiller_of("kd", student, teacher)),
                ("plain torch", floor(student, teacher)),
                pairs=options.pairs,
                bar=bar,
            )
        )
    finish(results, options)
    without, with_taps = count_tap_operations()
    print(f"taps on three stages: {with_taps - without} operations more than {without}")


if __name__ == "__main__":
    main()
