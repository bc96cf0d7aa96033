"""A network with fewer channels in every layer, cut out of a given one."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.data.batch import first_tensor
from limbeck.errors import ModelError
from limbeck.models.calling import Call, call_model, evaluating
from limbeck.models.cohort import logits_of


class Cut(NamedTuple):
    """How much is kept of each layer.

    Attributes:
        share: of the channels, in (0, 1].
        trailing: whether the last channels are kept, and not the first.
        nested: whether the network is to stay a part of the given one: counts are rounded up,
            weights keep their size, groups of channels stay whole.
    """

    share: float
    trailing: bool = False
    nested: bool = False

    def __call__(self, count: int) -> int:
        """Return how many of ``count`` channels are kept, at least 1."""
        if self.nested:
            return max(1, math.ceil(self.share * count - 1e-9))  # 0.1 * 30 is above 3
        return max(1, round(self.share * count))

    def scale(self, before: int, now: int) -> float:
        """Return the factor of weights that read ``now`` inputs instead of ``before``."""
        return 1.0 if self.nested else math.sqrt(before / now)

    def keep(self, tensor: Tensor, size: int, dim: int = 0) -> Tensor:
        """Return ``size`` entries of a dimension."""
        start = tensor.shape[dim] - size if self.trailing else 0
        return tensor.narrow(dim, start, size)


def narrowed(
    model: nn.Module,
    share: float,
    example: Any,
    *,
    head: str,
    call: Call = call_model,
    trailing: bool = False,
    nested: bool = False,
) -> nn.Module:
    """Return a copy of a network in which every layer has a share of its channels.

    Weights are those of the kept channels, multiplied by the root of how many times fewer inputs a
    layer reads: of freshly initialised layers, what fresh ones of that width would have. Inputs
    of the network and outputs of its head stay. Convolutions, linear layers, embeddings and norms
    are known, and modules with a ``narrowed(cut)`` of their own, which returns what stands in.

    Args:
        model: the network; it is not changed.
        share: of the channels, in (0, 1].
        example: inputs of at least one sample.
        head: path of the classifier.
        call: ``call(model, example)`` where it is not called as ``model(example)``.
        trailing: whether the last channels of each layer are kept, and not the first.
        nested: whether weights stay as they are, numbers of channels are rounded up, and grouped
            convolutions keep whole groups: then weights are slices of the given network's.

    Raises:
        ModelError: a module with weights of its own is none of these, or what is left cannot be
            run.
    """
    reading = _reads_input(model, example, call)
    narrow, cut = copy.deepcopy(model), Cut(share, trailing, nested)
    for name, module in list(narrow.named_modules()):
        if callable(own := getattr(module, "narrowed", None)):
            narrow.set_submodule(name, own(cut))
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and not module.transposed:
            _narrow_convolution(module, cut, name in reading)
        elif isinstance(module, nn.Linear):
            _narrow_linear(module, cut, name in reading, name == head)
        elif isinstance(module, nn.Embedding):
            module.embedding_dim = cut(module.embedding_dim)
            _replace(module, "weight", cut.keep(module.weight, module.embedding_dim, 1))
        elif isinstance(module, _BatchNorm | nn.GroupNorm | nn.LayerNorm):
            _narrow_norm(module, cut)
        elif next(module.parameters(recurse=False), None) is not None:
            raise _cannot(model, f"{type(module).__name__} at {name!r} has weights of its own kind")
    _check(model, narrow, example, call)
    return narrow


def _reads_input(model: nn.Module, example: Any, call: Call) -> set[str]:
    """Return the layers that read the network's own input, whose width is the data's."""
    given, reading = first_tensor(getattr(example, "inputs", example)), set()

    def watch(name: str, module: nn.Module) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            read = args[0] if args else None
            if not isinstance(read, Tensor) or read.numel() != given.numel():
                return
            if torch.equal(read.flatten(), given.to(read.dtype).flatten()):
                reading.add(name)

        return module.register_forward_pre_hook(hook)

    handles = [watch(name, module) for name, module in model.named_modules() if name]
    try:
        with evaluating(model):
            call(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return reading


def _narrow_convolution(layer: Any, cut: Cut, reads_input: bool) -> None:
    before = layer.in_channels // layer.groups
    ins = layer.in_channels if reads_input else cut(layer.in_channels)
    outs = cut(layer.out_channels)
    groups = ins if layer.groups == layer.in_channels else layer.groups
    if cut.nested and layer.groups > 1:
        groups = _whole_groups(layer, ins, outs)
    if ins % groups or outs % groups:
        raise ModelError(f"{ins} and {outs} channels do not divide into {groups} groups")
    depth = ins // groups
    layer.in_channels, layer.out_channels, layer.groups = ins, outs, groups
    kept = cut.keep(cut.keep(layer.weight, outs), depth, 1)
    _replace(layer, "weight", kept * cut.scale(before, depth))
    if layer.bias is not None:
        _replace(layer, "bias", cut.keep(layer.bias, outs))


def _whole_groups(layer: Any, ins: int, outs: int) -> int:
    """Return how many of a convolution's groups so many channels are."""
    read, gives = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    if ins % read or outs != ins // read * gives:
        raise ModelError(
            f"{ins} of {layer.in_channels} channels read and {outs} of {layer.out_channels} given "
            f"are no whole groups of the {layer.groups} of a convolution"
        )
    return int(ins // read)


def _narrow_linear(layer: nn.Linear, cut: Cut, reads_input: bool, is_head: bool) -> None:
    before = layer.in_features
    layer.in_features = before if reads_input else cut(before)
    layer.out_features = layer.out_features if is_head else cut(layer.out_features)
    kept = cut.keep(cut.keep(layer.weight, layer.out_features), layer.in_features, 1)
    _replace(layer, "weight", kept * cut.scale(before, layer.in_features))
    if layer.bias is not None:
        _replace(layer, "bias", cut.keep(layer.bias, layer.out_features))


def _narrow_norm(layer: Any, cut: Cut) -> None:
    if isinstance(layer, nn.LayerNorm):
        size = cut(layer.normalized_shape[-1])
        layer.normalized_shape = (*layer.normalized_shape[:-1], size)
        dim = -1
    else:
        key = "num_features" if isinstance(layer, _BatchNorm) else "num_channels"
        size, dim = cut(getattr(layer, key)), 0
        setattr(layer, key, size)
        if isinstance(layer, nn.GroupNorm):
            layer.num_groups = math.gcd(layer.num_groups, size)
    for name, value in list(layer.named_parameters(recurse=False)):
        _replace(layer, name, cut.keep(value, size, dim))
    for name, value in list(layer.named_buffers(recurse=False)):
        if value.ndim:
            layer.register_buffer(name, cut.keep(value, size, dim).clone())


def _replace(layer: nn.Module, name: str, value: Tensor) -> None:
    needs = getattr(layer, name).requires_grad
    setattr(layer, name, nn.Parameter(value.detach().clone(), requires_grad=needs))


def _check(model: nn.Module, narrow: nn.Module, example: Any, call: Call) -> None:
    with evaluating(model):
        wanted = logits_of(call(model, example)).shape
    try:
        with evaluating(narrow):
            found = logits_of(call(narrow, example)).shape
    except (RuntimeError, ValueError, AssertionError) as error:
        raise _cannot(model, str(error).strip().split("\n")[0].rstrip(".")) from error
    if found != wanted:
        raise _cannot(model, f"it gives outputs of shape {tuple(found)}, not {tuple(wanted)}")


def _cannot(model: nn.Module, reason: str) -> ModelError:
    return ModelError(f"a narrower {type(model).__name__} cannot be cut out of it: {reason}")
