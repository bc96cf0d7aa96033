"""What a step of PVR costs over one of KD with the same student and teacher.

The teacher's backward pass is the difference; counting a backward pass as two forward ones, the
floor of the ratio is 6 over 4.

python -m benchmarks.gradients
"""

from __future__ import annotations

import torch

from benchmarks.harness import arguments, begin, compare, finish
from benchmarks.step import BATCH, distiller_of


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__ or "").parse_args()
    begin(options)
    torch.set_num_threads(1)
    results = [
        compare(
            f"PVR step, {name}, batch {BATCH}",
            ("PVR", distiller_of("pvr", name, name)),
            ("KD", distiller_of("kd", name, name)),
            pairs=options.pairs,
        )
        for name in ("mlp", "resnet8")
    ]
    finish(results, options)


if __name__ == "__main__":
    main()
