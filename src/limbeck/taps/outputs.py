"""Outputs: what a model says about a batch."""

from __future__ import annotations

import dataclasses
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
        """Return the same outputs cut from the graph; the very ones where none is in it."""
        return self.map(lambda tensor: tensor.detach()) if self._in_graph() else self

    def _in_graph(self) -> bool:
        if self.logits.requires_grad:
            return True
        for tensors in (self.features, self.attentions):
            if tensors and any(tensor.requires_grad for tensor in tensors.values()):
                return True
        if self.members and any(member._in_graph() for member in self.members):
            return True
        return self.sparse is not None and self.sparse.log_probs.requires_grad

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
    """Read what a model's forward returned.

    A tensor; a mapping or an object (a dataclass, a ``ModelOutput``) with ``logits``, or with
    nothing but one tensor; or a tuple, of which the first tensor counts. ``hidden_states`` and
    ``attentions`` beside the logits (a transformers network asked for them) are kept as features
    and attentions, "hidden_states.0" and so on.

    Raises:
        TypeError: none of these; the line names what there is, and how to say which it should be.
    """
    if isinstance(value, Outputs):
        return value
    if isinstance(value, Tensor):
        return Outputs(value)
    parts = _parts(value)
    if isinstance(parts.get("logits"), Tensor):
        features, attentions = (_numbered(parts, name) for name in ("hidden_states", "attentions"))
        return Outputs(parts["logits"], features, attentions)
    tensors = {name: part for name, part in parts.items() if isinstance(part, Tensor)}
    if len(tensors) == 1 and len(parts) == 1:
        return Outputs(next(iter(tensors.values())))
    if isinstance(value, tuple | list) and value and isinstance(value[0], Tensor):
        if len(value) > 1 and value[0].dim() > 3:
            raise TypeError(_refusal(f"a {type(value).__name__} of {len(value)} feature maps"))
        return Outputs(value[0])
    named = f" with {', '.join(map(repr, parts))}" if parts else ""
    raise TypeError(_refusal(f"{type(value).__name__}{named}"))


def _parts(value: Any) -> Mapping[str, Any]:
    """Return the named parts of a mapping or an object that holds tensors; else nothing."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {"logits": value.logits} if hasattr(value, "logits") else {}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        found = {name: getattr(value, name) for name in names}
        logits = getattr(value, "logits", None)
        found |= {"logits": logits} if isinstance(logits, Tensor) else {}
        return {name: part for name, part in found.items() if part is not None}
    if getattr(value, "logits", None) is None:
        return {}
    known = ("logits", "hidden_states", "attentions")
    return {name: getattr(value, name, None) for name in known}


def _refusal(what: str) -> str:
    return (
        f"the model returned {what}; expected a tensor of logits, a mapping with 'logits', or an "
        "object with .logits. Pass forward=lambda model, batch: ... to say which tensor they are."
    )


def _numbered(parts: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    tensors = parts.get(name)
    if not isinstance(tensors, tuple | list):
        return {}
    return {f"{name}.{i}": one for i, one in enumerate(tensors) if isinstance(one, Tensor)}
