"""Outputs: what a model says about a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class SparseProbs:
    """A distribution over classes of which only some are kept (``functional.kl_sparse``).

    Attributes:
        ids: int64 ``[batch, kept]``: the classes kept.
        log_probs: ``[batch, kept]``: their log-probabilities; -inf in a place that is not used.
        log_tail: ``[batch]``: log of the mass of all others; None: none (a random sample).
        temperature: the temperature at which the probabilities were taken.
    """

    ids: Tensor
    log_probs: Tensor
    log_tail: Tensor | None
    temperature: float

    def map(self, function: Callable[[Tensor], Tensor]) -> SparseProbs:
        """Return the same with ``function`` applied to every tensor."""
        tail = None if self.log_tail is None else function(self.log_tail)
        return SparseProbs(function(self.ids), function(self.log_probs), tail, self.temperature)


@dataclass(frozen=True)
class Outputs:
    """What a model, or a teacher, says about a batch.

    Attributes:
        logits: ``[batch, classes]`` (or ``[batch, outputs]`` for regression); without columns
            where ``sparse`` speaks instead.
        features: tapped tensors by tap name, in the order asked for.
        attentions: attention maps by tap name, where the model gives them.
        members: the single voices behind a cohort or an ensemble; empty for one model.
        sparse: some classes' probabilities, where a cache kept no more; None: ``logits`` hold all.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    attentions: Mapping[str, Tensor] = field(default_factory=dict)
    members: tuple[Outputs, ...] = ()
    sparse: SparseProbs | None = None

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
            None if self.sparse is None else self.sparse.map(function),
        )


def as_outputs(value: Any) -> Outputs:
    """Read what a model's forward returned: a tensor, a mapping, or an object with ``.logits``."""
    if isinstance(value, Outputs):
        return value
    if isinstance(value, Tensor):
        return Outputs(value)
    if isinstance(value, Mapping) and isinstance(value.get("logits"), Tensor):
        return Outputs(value["logits"])
    logits = getattr(value, "logits", None)
    if isinstance(logits, Tensor):
        return Outputs(logits)
    if isinstance(value, tuple | list) and value and isinstance(value[0], Tensor):
        return Outputs(value[0])
    raise TypeError(
        f"the model returned {type(value).__name__}; expected a tensor of logits, a mapping with "
        "'logits', or an object with .logits. Pass forward=lambda model, batch: ... to say how."
    )
