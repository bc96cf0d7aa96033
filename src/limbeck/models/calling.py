"""How a model is asked: the form of its inputs, and its modes while it is only measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def call_model(model: nn.Module, inputs: Any, **extra: Any) -> Any:
    """Call ``model`` on ``inputs``: a tensor as is, a mapping as keywords, a tuple as positions."""
    if isinstance(inputs, Mapping):
        return model(**inputs, **extra)
    if isinstance(inputs, list | tuple):
        return model(*inputs, **extra)
    return model(inputs, **extra)


def first_sample(inputs: Any) -> Any:
    """Return the inputs of the first sample only, the batch dimension kept (``[1, ...]``)."""
    return first_samples(inputs, 1)


def first_samples(inputs: Any, count: int) -> Any:
    """Return the inputs of the first ``count`` samples, or of all where there are fewer."""
    if isinstance(inputs, Tensor):
        return inputs[:count]
    if isinstance(inputs, Mapping):
        return {key: first_samples(value, count) for key, value in inputs.items()}
    if isinstance(inputs, list | tuple):
        return type(inputs)(first_samples(value, count) for value in inputs)
    return inputs


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put every module of ``model`` in eval mode under ``no_grad``; afterwards restore each one.

    Modes are kept per module, so that a frozen batch norm in a training network stays frozen.
    Batch statistics are not touched.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            yield model
    finally:
        for module, mode in modes.items():
            module.training = mode


def twice_differentiable_attention() -> AbstractContextManager[None]:
    """Make fused attention in any module decompose, so that it can be differentiated twice.

    The fused kernels of ``scaled_dot_product_attention`` raise on second derivatives.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    context: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return context
