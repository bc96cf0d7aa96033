"""A network and its narrower forms, which share its weights and learn together."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.errors import LimbeckError, ModelError
from limbeck.models.calling import Call, call_model
from limbeck.models.cohort import Cohort
from limbeck.models.narrow import narrowed


class SharedWidths(Cohort):
    """Sub-networks of one network: as deep, and in every hidden layer its first channels.

    The sub-network of share s has the first ``ceil(s * width)`` channels of each layer; the
    input, and the outputs of the classifier, are whole. Weights are those of the network itself: a
    step moves them for all. Batch norms are each sub-network's own, statistics, scale and shift:
    features of fewer channels have other statistics. To the engine it is a cohort: by ``plain`` it
    learns by the sum of the sub-networks' losses, and all are deployed together (``parts_of`` makes
    networks of them).

    Args:
        network: the network; it is not changed, a copy is.
        shares: of its channels, rising, above 0; the last is 1, the network itself.
        example: inputs of at least two samples.
        head: path of its classifier; None: it is looked for.
        call: ``call(network, example)`` where it is not called as ``network(example)``.

    Raises:
        ModelError: shares that do not rise to 1; a network that is not made of convolutions, linear
            layers and batch norms, or whose narrower form cannot be run.
    """

    deploy = "ensemble"

    def __init__(
        self,
        network: nn.Module,
        shares: Sequence[float],
        example: Any,
        *,
        head: str | None = None,
        call: Call = call_model,
    ) -> None:
        wrong = check_shares(shares)
        if wrong:
            raise ModelError(f"shares: {wrong}, got {list(shares)}")
        whole = copy.deepcopy(network)
        if len(shares) > 1:
            _refuse_other_layers(whole)
            head = _head_of(whole, example, call) if head is None else head
        narrow = [
            _sharing(
                whole, narrowed(whole, share, example, head=head or "", call=call, nested=True)
            )
            for share in shares[:-1]
        ]
        super().__init__([*narrow, whole])
        self.shares = tuple(shares)


class SharedLayer(nn.Module):
    """The first channels of a convolution or linear layer, whose weights stay where they are.

    Args:
        whole: the layer.
        form: a layer of the same kind with fewer channels; its own weights are not used.
    """

    def __init__(self, whole: nn.Module, form: nn.Module) -> None:
        super().__init__()
        self.whole = whole
        shapes = {name: value.shape for name, value in form.named_parameters()}
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._form = (copy.deepcopy(form).to("meta"),)  # in a tuple: no part of the state

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what the layer of the first channels gives."""
        output: Tensor = functional_call(self._form[0], self.slices(), (inputs,))
        return output

    def slices(self) -> dict[str, Tensor]:
        """Return the part of each of the layer's weights that is used; views."""
        return {
            name: self.whole.get_parameter(name)[tuple(slice(size) for size in shape)]
            for name, shape in self._shapes.items()
        }

    def alone(self) -> nn.Module:
        """Return an ordinary layer with a copy of these weights."""
        slices = self.slices()
        layer = copy.deepcopy(self._form[0]).to_empty(device=next(iter(slices.values())).device)
        with torch.no_grad():
            for name, value in slices.items():
                layer.get_parameter(name).copy_(value)
        return layer


def parts_of(trained: nn.Module) -> list[nn.Module]:
    """Return the sub-networks as ordinary networks of their own, the smallest first.

    Args:
        trained: a ``SharedWidths``, or what was deployed of one (of one share: the network).
    """
    members = getattr(trained, "members", None)
    return [_alone(member) for member in ([trained] if members is None else members)]


def check_shares(shares: Sequence[float]) -> str:
    """Return what is wrong with the shares of a network's channels; "" if nothing."""
    rising = all(a < b for a, b in pairwise(shares))
    if not shares or not rising or not shares[0] > 0 or shares[-1] != 1:
        return "expected rising numbers above 0, the last 1"
    return ""


def _sharing(whole: nn.Module, narrow: nn.Module) -> nn.Module:
    """Let the layers of a narrower copy read their weights from the whole network."""
    made: dict[int, SharedLayer] = {}
    for name, layer in list(narrow.named_modules(remove_duplicate=False)):
        if name and not isinstance(layer, _BatchNorm) and _has_weights(layer):
            if id(layer) not in made:
                made[id(layer)] = SharedLayer(whole.get_submodule(name), layer)
            narrow.set_submodule(name, made[id(layer)])
    return narrow


def _alone(member: nn.Module) -> nn.Module:
    """Return a copy of a sub-network with weights of its own."""
    network = copy.deepcopy(member)
    made: dict[int, nn.Module] = {}
    for name, layer in list(network.named_modules(remove_duplicate=False)):
        if isinstance(layer, SharedLayer):
            made.setdefault(id(layer), layer.alone())
            network.set_submodule(name, made[id(layer)])
    return network.eval()


def _refuse_other_layers(network: nn.Module) -> None:
    known = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear | _BatchNorm
    for name, module in network.named_modules():
        if _has_weights(module) and not isinstance(module, known):
            raise ModelError(
                f"{type(network).__name__} has no sub-networks of fewer channels: "
                f"{type(module).__name__} at {name!r} is no convolution, linear layer or batch norm"
            )


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _head_of(network: nn.Module, example: Any, call: Call) -> str:
    from limbeck.taps import linear_head

    try:
        return linear_head(network, example, call=call).path
    except ModelError:
        raise
    except LimbeckError as error:
        raise ModelError(str(error)) from error
