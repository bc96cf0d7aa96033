"""What a network costs: parameters, floating-point operations, latency."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from limbeck.data.batch import first_tensor
from limbeck.kernels.optimizers import beneath
from limbeck.models.calling import Call, call_model, evaluating, first_sample, first_samples

_ONE_COUNTS = threading.RLock()  # torch's counter is one for all threads


def count_parameters(model: nn.Module, *, trainable: bool = False) -> int:
    """Number of parameters; a tensor shared by two modules counts once, buffers do not.

    Args:
        model: the network.
        trainable: count only those that require a gradient.
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def count_flops(model: nn.Module, example_inputs: Any) -> int:
    """Floating-point operations of one forward pass on one sample.

    A multiplication and an addition count as two: divide by 2 for multiply-adds ("MACs"), which
    many papers call FLOPs. Convolutions, matrix products and attention are counted; norms,
    activations and pooling are not (torch.utils.flop_counter). Modes and batch statistics are
    left as they were.

    Args:
        model: the network.
        example_inputs: a batch of any size; its first sample is used.
    """
    return flops_on(model, first_sample(example_inputs))


def flops_on(model: nn.Module, example: Any, call: Call = call_model) -> int:
    """Return the floating-point operations of a forward pass on an example, as ``count_flops``.

    Args:
        model: the network.
        example: its inputs, all of them.
        call: runs the network on them.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with evaluating(model), _asked_directly(type(counter)), counter:
        call(model, example)
    return int(counter.get_total_flops())


@contextmanager
def _asked_directly(counter: type) -> Iterator[None]:
    """Take torch's wrapper off the counter: it imports the compiler, which takes a second."""
    mode: Any = getattr(inspect.getmodule(counter), "_FlopCounterMode", counter)
    with _ONE_COUNTS:
        wrapped = getattr(mode, "__torch_dispatch__", None)
        if wrapped is None:  # counted by other means
            yield
            return
        mode.__torch_dispatch__ = beneath(wrapped)
        try:
            yield
        finally:
            mode.__torch_dispatch__ = wrapped


def measure_latency(
    model: nn.Module, example_inputs: Any, *, repeats: int = 30, warmup: int = 5, batch: int = 1
) -> float:
    """Median milliseconds of one forward pass, in eval mode without gradients.

    Args:
        model: the network, already on its device.
        example_inputs: a batch of any size on the same device; its first samples are used.
        repeats: timed passes, at least 1.
        warmup: passes before them.
        batch: samples in each pass (fewer where ``example_inputs`` has fewer).

    The median is over single passes. Modes and batch statistics are left as they were.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    inputs = first_samples(example_inputs, batch)
    device = first_tensor(inputs).device
    times = []
    with evaluating(model):
        for step in range(warmup + repeats):
            _wait(device)
            start = time.perf_counter()
            call_model(model, inputs)
            _wait(device)
            if step >= warmup:
                times.append(time.perf_counter() - start)
    times.sort()
    middle = len(times) // 2
    return 500.0 * (times[middle] + times[-1 - middle])


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
