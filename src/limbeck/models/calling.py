"""How a model is asked: the form of its inputs, and its modes while it is only measured."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

SEGMENTS = "token_type_ids"
Call = Callable[[nn.Module, Any], Any]
"""Runs a model on inputs, where it is not ``call_model``."""


def call_model(model: nn.Module, inputs: Any, **extra: Any) -> Any:
    """Call ``model`` on ``inputs``: a tensor as is, a mapping as keywords, a tuple as positions.

    Of a mapping, ``token_type_ids`` (the segments of a pair of texts) are left out for a network
    that has no such argument: what shares a tokenizer need not share segments.
    """
    if isinstance(inputs, Mapping):
        if SEGMENTS in inputs and not _takes_segments(model):
            inputs = {key: value for key, value in inputs.items() if key != SEGMENTS}
        return model(**inputs, **extra)
    if isinstance(inputs, list | tuple):
        return model(*inputs, **extra)
    return model(inputs, **extra)


def _takes_segments(model: nn.Module) -> bool:
    from limbeck.taps.roles import unwrap

    return _signature_has_segments(type(unwrap(model)).forward)


@lru_cache(maxsize=64)
def _signature_has_segments(forward: Callable[..., Any]) -> bool:
    parameters = inspect.signature(forward).parameters
    # transformers networks take any keyword, and pass what they do not know on to their insides
    passes_on = forward.__module__.startswith("transformers.")
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return SEGMENTS in parameters or (anything and not passes_on)


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


ATTENTION = "limbeck_attention"
"""Attribute that remembers a transformers network's attention while it is eager."""


def make_attention_eager(model: nn.Module) -> None:
    """Let every transformers network inside ``model`` write its attention out, until restored.

    Eager attention has second derivatives; fused implementations raise on them.
    """
    from limbeck.models.hf import is_transformers

    networks: list[Any] = [part for part in model.modules() if is_transformers(part)]
    for network in networks:  # first all, since inner ones may share their outer one's settings
        setattr(network, ATTENTION, network.config._attn_implementation)
    for network in networks:
        network.set_attn_implementation("eager")


def restore_attention(model: nn.Module) -> None:
    """Undo ``make_attention_eager``; a network that it has not touched stays as it is."""
    for part in model.modules():
        if hasattr(part, ATTENTION):
            network: Any = part
            network.set_attn_implementation(getattr(network, ATTENTION))
            delattr(network, ATTENTION)
