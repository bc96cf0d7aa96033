"""What each feature method costs over plain KD: a step's time, and the memory of its loss.

A step is the Distiller's own, on a fixed batch: student forward and backward, teacher forward, the
update. The two sides run in turn, the method's and KD's. Memory is counted, not measured: the bytes
that the graph of the terms keeps between forward and backward, beyond what KD keeps.

Methods that need networks of their own kind (ked) are told in a line and left out.

python -m benchmarks.features                       # all of them
python -m benchmarks.features rkd crd --batch 256   # some, at another batch size
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Ratio, arguments, begin, compare, finish
from benchmarks.step import BATCH, distiller_of
from limbeck.errors import LimbeckError
from limbeck.methods import all_methods

STUDENT, TEACHER = "resnet8", "resnet20"


def feature_methods() -> list[str]:
    """Return the methods that read a teacher's inside each step."""
    return [name for name, cls in all_methods().items() if cls.card.needs_features]


def written(name: str, batch: int) -> Any:
    """Return a method as a recipe would name it for steps of so many samples."""
    return {"name": name, "batch_size": batch} if name == "semckd" else name


def kept_bytes(step: Callable[[], object]) -> int:
    """Return the bytes that autograd keeps for the backward pass of a step, each storage once."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step()
    return sum(kept.values())


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("methods", nargs="*", help="names; none: every feature method")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"samples (default {BATCH})")
    options = parser.parse_args()
    begin(options)
    torch.set_num_threads(1)
    plain = distiller_of("kd", STUDENT, TEACHER, options.batch)
    floor = kept_bytes(plain)
    results: list[Ratio] = []
    memory: list[tuple[str, float]] = []
    for name in options.methods or feature_methods():
        try:
            step = distiller_of(written(name, options.batch), STUDENT, TEACHER, options.batch)
            memory.append((name, (kept_bytes(step) - floor) / 2**20))
        except LimbeckError as error:
            print(f"left out: {name}: {error}", flush=True)
            continue
        results.append(
            compare(
                f"{name}, {STUDENT} from {TEACHER}, batch {options.batch}",
                (name, step),
                ("kd", plain),
                pairs=options.pairs,
            )
        )
    finish(results, options)
    print(f"kept for the backward pass: kd {floor / 2**20:.1f} MiB, and beyond that")
    for name, more in memory:
        print(f"  {name:12} {more:+8.1f} MiB")


if __name__ == "__main__":
    main()
