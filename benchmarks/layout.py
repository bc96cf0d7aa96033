"""What the channels-last layout brings: a training step and an evaluation of several networks.

Both sides are the same network with the same weights, one in torch's usual layout and one in
channels-last, in one thread.

python -m benchmarks.layout
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness import Ratio, arguments, begin, compare, finish
from limbeck.models import build_model

BATCH, CLASSES = 64, 100
NETWORKS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("cnn", (1, 8, 8)),
    ("cnn", (1, 28, 28)),
    ("cnn", (3, 32, 32)),
    ("resnet8", (3, 32, 32)),
    ("resnet20", (3, 32, 32)),
    ("resnet8x4", (3, 32, 32)),
    ("wrn16_1", (3, 32, 32)),
    ("vgg8", (3, 32, 32)),
    ("mobilenetv2", (3, 32, 32)),
    ("shufflenetv2", (3, 32, 32)),
    ("vit_tiny", (3, 32, 32)),
)


def step(network: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[], None]:
    """Return a forward and backward pass in training mode."""

    def once() -> None:
        network.train()
        F.cross_entropy(network(inputs), targets).backward()  # type: ignore[no-untyped-call]
        network.zero_grad(set_to_none=True)

    return once


def answer(network: nn.Module, inputs: Tensor) -> Callable[[], object]:
    """Return a forward pass in evaluation mode."""

    def once() -> object:
        network.eval()
        with torch.no_grad():
            return network(inputs)

    return once


def measured(name: str, shape: tuple[int, ...], pairs: int) -> list[Ratio]:
    """Compare the layouts of one network."""
    torch.manual_seed(0)
    network = build_model(name, num_classes=CLASSES, input_shape=shape)
    inputs, targets = torch.randn(BATCH, *shape), torch.randint(0, CLASSES, (BATCH,))
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    turned = inputs.to(memory_format=torch.channels_last)
    works = {
        "step": (step(network, inputs, targets), step(other, turned, targets)),
        "evaluation": (answer(network, inputs), answer(other, turned)),
    }
    size = "x".join(map(str, shape))
    return [
        compare(
            f"{name}, {size}, {work}",
            ("usual", usual),
            ("channels-last", last),
            pairs=pairs,
            warmup=2,
        )
        for work, (usual, last) in works.items()
    ]


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__ or "").parse_args()
    begin(options)
    torch.set_num_threads(1)
    results = [ratio for one in NETWORKS for ratio in measured(*one, options.pairs)]
    finish(results, options)


if __name__ == "__main__":
    main()
