"""How near a control variate is to distillation as a loss: cosines of gradients over a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.methods.teacher_gradient import SameNetwork

_NONE = (0.0, 0.0, 0.0, 1.0, -1.0, 0.0)
"""Of no cosines: number, sum, sum of squares, least, most, and sum of what the teacher adds."""


class GradientCosines(nn.Module):
    r"""Cosines of :math:`\nabla[(1-\lambda) f_\xi(x) + \lambda \mathrm{KL}]` and its stand-in.

    The stand-in is :math:`\nabla f_\xi(x) - \lambda \nabla f_\xi(\theta)`, which puts the teacher's
    Jacobian in the place of the student's (Safaryan et al. 2023). With a teacher whose gradient is
    nearly 0 any student is near it; so what the cosine would be without the teacher's gradient is
    measured too.

    Args:
        pair: student and teacher.
    """

    measured: Tensor

    def __init__(self, pair: SameNetwork) -> None:
        super().__init__()
        self.__dict__["pair"] = pair  # the networks are not this module's to save
        self.register_buffer("measured", torch.tensor(_NONE, dtype=torch.float64))

    def add(
        self,
        ours: Tensor,
        theirs: Tensor,
        slopes: Sequence[Tensor],
        targets: Tensor,
        task: str,
        lam: float,
    ) -> None:
        """Measure a batch.

        Args:
            ours: the student's logits, with their graph, which is kept.
            theirs: the teacher's.
            slopes: the teacher's gradient on the same batch, parameter by parameter.
            targets: the labels.
            task: kind of task.
            lam: λ, shared by both.
        """
        pair = cast(SameNetwork, self.__dict__["pair"])
        true, plain = pair.gradients_as_a_loss(ours, theirs, targets, task, lam)
        teacher = torch.cat([slope.reshape(-1) for slope in slopes])
        near = functional.control_variate(plain, teacher, lam=lam)
        value, without = (float(_cosine(true, other)) for other in (near, plain))
        count, total, squares, least, most, gain = self.measured.tolist()
        told = (count + 1, total + value, squares + value**2, min(least, value), max(most, value))
        gained = gain + value - without
        self.measured.copy_(torch.tensor((*told, gained), dtype=torch.float64))

    def take(self) -> dict[str, float]:
        """Return mean, deviation and extremes since the last call, and what the teacher adds.

        ``gradient_cosine``, with ``_std``, ``_min`` and ``_max``; ``gradient_cosine_gain``: the
        mean less that of ∇f_ξ(x) alone. Empty where nothing was measured.
        """
        count, total, squares, least, most, gain = self.measured.tolist()
        if not count:
            return {}
        self.measured.copy_(torch.tensor(_NONE, dtype=torch.float64))
        mean = total / count
        spread = max(squares / count - mean**2, 0.0) ** 0.5
        found = {"": mean, "_std": spread, "_min": least, "_max": most, "_gain": gain / count}
        return {f"gradient_cosine{key}": value for key, value in found.items()}


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(one, other, dim=0)
