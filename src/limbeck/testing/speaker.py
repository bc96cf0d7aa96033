"""Made-up networks: fixed answers for each sample, with logits that hang on their features."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.data.batch import Batch, first_tensor
from limbeck.taps.outputs import Outputs


@dataclass(frozen=True, eq=False)
class Speaker:
    """A network as a table of answers.

    Logits hang on the tapped features, so that explanations (gradients of logits with respect to
    features) exist and can be trained through. Their value is what the table says, to the bit and
    in any precision, and only their gradient runs to the features; unless ``moves``.

    Attributes:
        logits: ``[samples, outputs]``, by ``Batch.index``.
        features: tapped tensors ``[samples, ...]`` by tap name.
        pull: how each feature moves the logits, in the shape of one sample's feature.
        tilt: ``[outputs]``, above 0: which logits it moves, and how far.
        originals: ``[samples, ...]`` inputs that the table answers; other inputs shift the logits.
        moves: whether the features move the value of the logits too.
    """

    logits: Tensor
    features: Mapping[str, Tensor]
    pull: Mapping[str, Tensor]
    tilt: Tensor
    originals: Tensor
    moves: bool = False

    def answer(self, batch: Batch, *, cut: bool = False) -> Outputs:
        """Return what the network says about a batch; ``cut``: no graph to its own table."""
        assert batch.index is not None
        rows = batch.index
        logits = self.logits[rows]
        features = {name: value[rows] for name, value in self.features.items()}
        if cut:
            logits = logits.detach()
            features = {name: value.detach().requires_grad_() for name, value in features.items()}
        change = first_tensor(batch.inputs) - self.originals[rows]
        if bool((change != 0).any()):
            logits = logits + (change.flatten(1).mean(1, keepdim=True) * self.tilt).to(logits)
        for name, value in features.items():
            moved = torch.tanh((value * self.pull[name].to(value)).flatten(1).mean(1, keepdim=True))
            link = (moved * self.tilt.to(value)).to(logits.dtype)
            logits = logits + (link if self.moves else link - link.detach())
        return Outputs(logits, features)

    @property
    def tensors(self) -> list[Tensor]:
        """The table: logits, then features."""
        return [self.logits, *self.features.values()]

    def with_tensors(self, tensors: Sequence[Tensor]) -> Speaker:
        """Return the network with another table, in the order of ``tensors``."""
        features = dict(zip(self.features, tensors[1:], strict=True))
        return dataclasses.replace(self, logits=tensors[0], features=features)

    def watched(self) -> Speaker:
        """Return a copy whose table collects gradients."""
        return self.with_tensors([t.detach().clone().requires_grad_() for t in self.tensors])

    def cast(self, logits: torch.dtype, features: torch.dtype) -> Speaker:
        """Return a copy in other precisions."""
        changed = [self.logits.to(logits), *(f.to(features) for f in self.features.values())]
        return self.with_tensors(changed)

    def to(self, device: torch.device) -> Speaker:
        """Return a copy on a device."""
        return dataclasses.replace(
            self,
            logits=self.logits.to(device),
            features={name: value.to(device) for name, value in self.features.items()},
            pull={name: value.to(device) for name, value in self.pull.items()},
            tilt=self.tilt.to(device),
            originals=self.originals.to(device),
        )


def make_speaker(
    originals: Tensor,
    num_outputs: int,
    shapes: Mapping[str, Sequence[int]],
    *,
    scale: float,
    generator: torch.Generator,
) -> Speaker:
    """Make up a network in float64: logits in ±scale, features not negative.

    Args:
        originals: inputs ``[samples, ...]`` it is asked about.
        num_outputs: its outputs.
        shapes: shape of each tapped feature, batch dimension first.
        scale: the largest logit.
        generator: where all numbers come from.
    """

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    count = len(originals)
    logits = scale * (2 * draw(count, num_outputs) - 1)
    features = {name: 2 * draw(count, *shape[1:]) for name, shape in shapes.items()}
    pull = {name: 0.2 + draw(*shape[1:]) for name, shape in shapes.items()}
    return Speaker(logits, features, pull, 0.5 + draw(num_outputs), originals)
