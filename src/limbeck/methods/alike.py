"""Which layers of two networks are most alike: pairs by centered kernel alignment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch, take_rows
from limbeck.errors import TeacherError
from limbeck.functional.alignment import FEWEST
from limbeck.models.calling import call_model
from limbeck.taps import TapPair, tapping
from limbeck.taps.pairing import first_member

SAMPLES = 256
"""Training samples that layers are compared on."""
CHUNK = 64
"""Of which so many are compared with each other: what is held at a time."""


def most_alike(
    student: nn.Module,
    teacher: Any,
    layers: tuple[Sequence[TapPair], Sequence[TapPair]],
    samples: Callable[[int], Batch],
    forward: Callable[[Any, Any], Any] | None,
) -> list[TapPair]:
    """Pair each layer of the network that has fewer, in order, so that the sum of CKA is highest.

    CKA is debiased, its products averaged over chunks of training samples (Nguyen et al. 2021,
    2010.15327). The student is taken as it is given.

    Args:
        student: in eval mode, without gradients.
        teacher: the method's teacher.
        layers: the student's, and the teacher's, each paired with itself.
        samples: gives up to so many training samples.
        forward: ``forward(student, batch)`` where it is not called as ``student(inputs)``.

    Raises:
        TeacherError: there are too few samples to tell.
    """
    ours, theirs = ([layer.student for layer in side] for side in layers)
    similarity = _similarities(
        _Asked(first_member(student), ours, forward, lambda batch: batch.inputs),
        _Asked(first_member(teacher.module), theirs, teacher.forward, teacher.inputs_of),
        samples(SAMPLES),
    )
    mine, other = layers
    return [
        TapPair(mine[i].student, other[j].student, mine[i].student_shape, other[j].student_shape)
        for i, j in match_in_order(similarity)
    ]


def match_in_order(similarity: Tensor) -> list[tuple[int, int]]:
    """Pair rows and columns so that the sum is highest: each of the fewer once, none crossing.

    >>> match_in_order(torch.tensor([[0.9, 0.1, 0.8], [0.9, 0.2, 0.3]]))
    [(0, 0), (1, 2)]
    """
    rows, columns = similarity.shape
    if rows > columns:
        return [(i, j) for j, i in match_in_order(similarity.T)]
    worst = float("-inf")
    best = [[0.0] * (columns + 1)] + [[worst] * (columns + 1) for _ in range(rows)]
    for i in range(1, rows + 1):
        for j in range(i, columns + 1):
            taken = best[i - 1][j - 1] + float(similarity[i - 1, j - 1])
            best[i][j] = max(taken, best[i][j - 1])
    found, j = [], columns
    for i in range(rows, 0, -1):
        while best[i][j] == best[i][j - 1] and j > i:
            j -= 1
        found.append((i - 1, j - 1))
        j -= 1
    return found[::-1]


class _Asked:
    """A network, its layers, and how it is run on a batch."""

    def __init__(
        self,
        network: nn.Module,
        taps: Sequence[str],
        forward: Callable[[Any, Any], Any] | None,
        inputs_of: Callable[[Batch], Any],
    ) -> None:
        self.network, self.taps = network, list(taps)
        self.forward, self.inputs_of = forward, inputs_of

    def grams(self, batch: Batch) -> list[Tensor]:
        """Return the centred Gram matrix of every layer over a batch."""
        inputs = self.inputs_of(batch)
        with tapping(self.network, self.taps) as store:
            if self.forward:
                self.forward(self.network, batch.replace(inputs=inputs, teacher_inputs=None))
            else:
                call_model(self.network, inputs)
        return [functional.centred_gram(store[tap], debiased=True) for tap in self.taps]


@torch.no_grad()
def _similarities(student: _Asked, teacher: _Asked, batch: Batch) -> Tensor:
    """Return CKA of every layer of the one with every layer of the other."""
    if len(batch) < FEWEST:
        raise TeacherError(
            f"pairs: cka compares layers on training samples: expected at least {FEWEST}, got "
            f"{len(batch)}; name the layers (pairs: [[student tap, teacher tap]])"
        )
    size = min(CHUNK, len(batch))
    products = squares = others = torch.zeros(())
    for start in range(0, len(batch) - size + 1, size):
        part = take_rows(batch, torch.arange(start, start + size))
        ours, theirs = (torch.stack(side.grams(part)).flatten(1) for side in (student, teacher))
        ours, theirs = ours.cpu(), theirs.cpu()
        products = products + ours @ theirs.T
        squares, others = squares + ours.square().sum(1), others + theirs.square().sum(1)
    scale = (squares[:, None] * others).sqrt()
    similarity: Tensor = products / torch.where(scale > 0, scale, 1.0)
    return similarity
