"""One network that ends several times: a shared trunk, branches, and a gate that weighs them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError

NATIVE_ENSEMBLE = "native ensemble"


class Branched(nn.Module):
    """A network, further copies of its end, and a gate (Lan, Zhu and Gong 2018, 1806.04606).

    The network itself is the first branch: taken out again, it is what it was. The gate reads the
    trunk's last feature, averaged over places: linear layer, batch norm, ReLU, softmax.

    Args:
        network: the network, a chain of modules from input to logits (``chain_of``).
        trunk: paths of the modules before the branches, in order.
        tail: paths of the modules of a branch, in order.
        branches: how many, at least 1. The further ones start anew: each weight matrix is drawn
            from a normal distribution with its original's mean and standard deviation.
        features: channels of the trunk's last feature.
        answer: "branch": the logits of the first branch; "ensemble": those of all, gated.
        roles: what parts of the network are for, by role; None: what it declares.

    ``forward`` takes what the network takes and returns logits ``[batch, classes]``. Through the
    module ``voices`` pass ``[batch, branches + 1, classes]``, the ensemble's logits last.

    Raises:
        ModelError: too few branches, or an unknown answer.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        trunk: Sequence[str],
        tail: Sequence[str],
        branches: int,
        features: int,
        answer: str = "branch",
        roles: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if branches < 1:
            raise ModelError(f"branches: expected at least 1, got {branches}")
        if answer not in ("branch", "ensemble"):
            raise ModelError(f"answer: expected branch or ensemble, got {answer!r}")
        self.network = network
        if roles is None:
            declared = getattr(network, "roles", None)
            roles = declared() if callable(declared) else {}
        self.network_roles: Mapping[str, Any] = dict(roles)
        self.trunk, self.tail = tuple(trunk), tuple(tail)
        self.features, self.answer = features, answer
        ends = [network.get_submodule(path) for path in self.tail]
        self.others = nn.ModuleList(
            nn.ModuleList(_anew(module) for module in ends) for _ in range(branches - 1)
        )
        self.gate = nn.Sequential(
            nn.Linear(features, branches), nn.BatchNorm1d(branches), nn.ReLU(), nn.Softmax(dim=1)
        )
        self.voices = nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, classes]``."""
        hidden = inputs
        for path in self.trunk:
            hidden = self.network.get_submodule(path)(hidden)
        first = [self.network.get_submodule(path) for path in self.tail]
        logits = torch.stack([_through(tail, hidden) for tail in (first, *self.others)], dim=1)
        gate = self.gate(_pooled(hidden, self.features))
        together = (gate.unsqueeze(-1) * logits).sum(dim=1)  # functional.gated_logits
        said: Tensor = self.voices(torch.cat([logits, together.unsqueeze(1)], dim=1))
        return said[:, 0] if self.answer == "branch" else said[:, -1]

    def roles(self) -> dict[str, list[str] | str]:
        """The roles of the network's parts, which is the first branch."""
        return {
            role: f"network.{where}"
            if isinstance(where, str)
            else [f"network.{path}" for path in where]
            for role, where in self.network_roles.items()
        }

    def spec(self, network: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Return how to rebuild the ensemble, given how to rebuild the network; None: unknown."""
        if network is None:
            return None
        arguments = {
            "network": dict(network),
            "trunk": list(self.trunk),
            "tail": list(self.tail),
            "branches": len(self.others) + 1,
            "features": self.features,
            "answer": self.answer,
            "roles": dict(self.network_roles),
        }
        shared = {key: network.get(key) for key in ("num_classes", "input_shape")}
        return {"model": NATIVE_ENSEMBLE, "arguments": arguments, **shared}


def chain_of(network: nn.Module, inputs: Any, split: str) -> tuple[list[str], list[str], Tensor]:
    """Run a network once and read it as a chain of modules, cut before the module ``split``.

    Args:
        network: the network; runs as it is called, in the mode that it is in.
        inputs: a tensor, an example.
        split: path of the module that the second part begins with.

    Returns:
        the paths before, the paths from ``split`` on, and the feature between.

    Raises:
        ModelError: between two modules the network does something that is no module.
    """
    calls: list[tuple[str, Any, Any]] = []
    handles = [
        module.register_forward_hook(_recorder(name, calls), always_call=False)
        for name, module in network.named_modules()
        if name and not split.startswith(f"{name}.")  # those around the cut are looked into
    ]
    try:
        logits = network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    paths: list[str] = []
    values, now = [inputs], inputs
    for name, given, gave in _outermost(calls):
        if given is not now:
            raise ModelError(_no_chain(network, paths[-1] if paths else "its input", name))
        paths.append(name)
        values.append(gave)
        now = gave
    if logits is not now or split not in paths:
        raise ModelError(_no_chain(network, paths[-1] if paths else "its input", "its output"))
    cut = paths.index(split)
    return paths[:cut], paths[cut:], values[cut]


def _recorder(name: str, calls: list[tuple[str, Any, Any]]) -> Any:
    def note(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        calls.append((name, args[0] if args else None, output))

    return note


def _outermost(calls: Sequence[tuple[str, Any, Any]]) -> list[tuple[str, Any, Any]]:
    """Return the calls that are inside of no other, in order (a module ends after its parts)."""
    kept: list[tuple[str, Any, Any]] = []
    for call in calls:
        kept = [one for one in kept if not one[0].startswith(f"{call[0]}.")]
        kept.append(call)
    return kept


def _no_chain(network: nn.Module, before: str, after: str) -> str:
    return (
        f"{type(network).__name__} cannot be branched: between {before} and {after} it does "
        "something that is no module of its own, which a branch would not do"
    )


def _anew(module: nn.Module) -> nn.Module:
    """Return a copy whose weight matrices are drawn anew, at their own scale."""
    fresh = copy.deepcopy(module)
    with torch.no_grad():
        for value in fresh.parameters():
            if value.dim() > 1:
                value.normal_(float(value.mean()), float(value.std()))
    return fresh


def _through(modules: Any, value: Tensor) -> Tensor:
    for module in modules:
        value = module(value)
    return value


def _pooled(feature: Tensor, channels: int) -> Tensor:
    """Average maps ``[batch, channels, ...]`` or tokens ``[batch, tokens, channels]``."""
    if feature.dim() == 2:
        return feature
    if feature.dim() == 3 and feature.shape[-1] == channels:
        return feature.mean(dim=1)
    return feature.flatten(2).mean(dim=2)
