"""Outputs: what a model says about a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Outputs:
    """What a model, or a teacher, says about a batch.

    Attributes:
        logits: ``[batch, classes]`` (or ``[batch, outputs]`` for regression).
        features: tapped tensors by tap name, in the order asked for.
        attentions: attention maps by tap name, where the model gives them.
        members: the single voices behind a cohort or an ensemble; empty for one model.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    attentions: Mapping[str, Tensor] = field(default_factory=dict)
    members: tuple[Outputs, ...] = ()

    def detach(self) -> Outputs:
        """Return the same outputs cut from the graph."""
        return self.map(lambda tensor: tensor.detach())

    def map(self, function: Callable[[Tensor], Tensor]) -> Outputs:
        """Return the outputs with ``function`` applied to every tensor."""
        return Outputs(
            function(self.logits),
            {name: function(value) for name, value in self.features.items()},
            {name: function(value) for name, value in self.attentions.items()},
            tuple(member.map(function) for member in self.members),
        )


def as_outputs(value: Any) -> Outputs:
    """Read what a model's forward returned: a tensor, a mapping, or an object with ``.logits``.

    ``hidden_states`` and ``attentions`` beside the logits (a transformers network asked for them)
    are kept as features and attentions, "hidden_states.0" and so on.
    """
    if isinstance(value, Outputs):
        return value
    if isinstance(value, Tensor):
        return Outputs(value)
    if isinstance(logits := _read(value, "logits"), Tensor):
        features, attentions = (_numbered(value, name) for name in ("hidden_states", "attentions"))
        return Outputs(logits, features, attentions)
    if isinstance(value, tuple | list) and value and isinstance(value[0], Tensor):
        return Outputs(value[0])
    raise TypeError(
        f"the model returned {type(value).__name__}; expected a tensor of logits, a mapping with "
        "'logits', or an object with .logits. Pass forward=lambda model, batch: ... to say how."
    )


def _read(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _numbered(value: Any, name: str) -> dict[str, Tensor]:
    tensors = _read(value, name)
    if not isinstance(tensors, tuple | list):
        return {}
    return {f"{name}.{i}": one for i, one in enumerate(tensors) if isinstance(one, Tensor)}
