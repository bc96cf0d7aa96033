"""Where a network averages a map over positions, and its classifier reads the mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from limbeck.errors import TapError
from limbeck.models.calling import call_model, evaluating
from limbeck.taps.hooks import tapping
from limbeck.taps.pairing import first_member
from limbeck.taps.roles import Call, infer_roles, roles_of
from limbeck.taps.values import tensor_in

CLOSE = 1e-3  # of the largest entry: a mean in another order, or in half precision


@dataclass(frozen=True)
class LinearHead:
    """A classifier and what it reads.

    Attributes:
        path: of the classifier.
        module: the classifier, with a ``weight`` ``[outputs, features]`` (or of a 1x1 convolution).
        averaged: tap of the map that it reads averaged over positions; None: it reads no map so.
    """

    path: str
    module: nn.Module
    averaged: str | None

    @property
    def weight(self) -> Tensor:
        """The matrix ``[outputs, features]`` as it is now."""
        weight: Tensor = self.module.weight.flatten(1)  # type: ignore[operator]
        return weight


def linear_head(model: nn.Module, example: Any, *, call: Call = call_model) -> LinearHead:
    """Return a network's classifier, and the map whose mean it reads where there is one.

    Runs the network twice, in eval mode without gradients. Of a cohort, the first member is
    looked at.

    Args:
        model: the network.
        example: inputs of at least one sample.
        call: ``call(model, example)`` where it is not called as ``model(example)``.

    Raises:
        TapError: no module with a matrix of weights is the head.
    """
    model = first_member(model)
    roles = infer_roles(model, example, call=call, stages=False)
    path = roles.get("head")
    module = model.get_submodule(path) if isinstance(path, str) else None
    weight = getattr(module, "weight", None)
    if module is None or not isinstance(weight, Tensor) or weight.flatten(1).ndim != 2:
        raise TapError(f"{type(model).__name__} has no linear head: give it a roles() with 'head'")
    assert isinstance(path, str)
    return LinearHead(path, module, averaged_map(model, path, example, call=call))


def averaged_map(
    model: nn.Module, reader: str, example: Any, *, call: Call = call_model
) -> str | None:
    """Return the tap of the map that a layer reads averaged over positions; None: there is none.

    It begins with a dot, as a module may have the name of a role. Of several maps with that mean
    the largest is meant (a pooled map has it too), in its last form: a stage that the network
    declares, or else the outermost module that gives it. Maps of one position are none.

    Args:
        model: the network.
        reader: path of the layer that reads vectors.
        example: inputs of at least one sample.
        call: ``call(model, example)`` where it is not called as ``model(example)``.
    """
    head = f"{reader}:in"
    means: list[tuple[str, int, Tensor]] = []

    def watch(name: str, module: nn.Module) -> RemovableHandle:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            tensor = tensor_in(output)
            if tensor is not None and tensor.ndim == 4 and tensor.shape[2] * tensor.shape[3] > 1:
                means.append((name, tensor[0, 0].numel(), tensor.mean(dim=(2, 3))))

        return module.register_forward_hook(hook)

    handles = [watch(name, module) for name, module in model.named_modules() if name]
    try:
        with tapping(model, head, roles={}) as store, evaluating(model):
            call(model, example)
    finally:
        for handle in handles:
            handle.remove()
    read = store[head].flatten(1)
    fitting = [
        (name, size)
        for name, size, mean in reversed(means)
        if mean.shape == read.shape and _alike(mean, read)
    ]
    largest, stages = max((size for _, size in fitting), default=0), roles_of(model).get("stages")
    paths = [name for name, size in fitting if size == largest]
    paths.sort(key=lambda path: path not in (stages or ()))
    return f".{paths[0]}" if paths else None


def _alike(mean: Tensor, read: Tensor) -> bool:
    gap, largest = (mean - read).abs().max(), read.abs().max()
    return bool(gap <= CLOSE * torch.clamp(largest, min=1e-12))
