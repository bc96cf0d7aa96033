"""The student as the engine asks it: one module or a cohort, with the taps of every method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.taps import TappedModel
from limbeck.taps.outputs import Outputs

Forward = Callable[[nn.Module, Any], Any]


def members_of(student: nn.Module) -> list[nn.Module]:
    """Return the members of a cohort, or the student alone."""
    if getattr(student, "is_cohort", False):
        return list(cast(nn.ModuleList, student.members))
    return [student]


class StudentVoice:
    """Runs the student on batches; hooks are held until :meth:`close`.

    Args:
        student: a module or a cohort.
        taps: for each member, the taps to read on every ordinary call.
        forward: how to run a model on a batch where it is not ``model(inputs)``.
        compile: whether to compile each member.
        require_grad: whether taps of ordinary calls always have gradients (see ``TappedModel``).
    """

    def __init__(
        self,
        student: nn.Module,
        taps: Sequence[Sequence[str]],
        *,
        forward: Forward | None = None,
        compile: bool = False,
        require_grad: bool = False,
    ) -> None:
        self._voices = [
            TappedModel(member, wanted, forward=forward, compile=compile, require_grad=require_grad)
            for member, wanted in zip(members_of(student), taps, strict=True)
        ]

    def __call__(self, batch: Any) -> Outputs:
        """Return outputs for a batch; a cohort's have ``members`` and their mean logits."""
        return self._join([voice(batch) for voice in self._voices])

    def ask(self, batch: Any, *, taps: Sequence[str] = (), require_grad: bool = False) -> Outputs:
        """Run once with other taps."""
        return self._join(
            [voice.ask(batch, taps=taps, require_grad=require_grad) for voice in self._voices]
        )

    def ask_member(
        self, member: int, batch: Any, taps: Sequence[str], require_grad: bool
    ) -> Outputs:
        """Run one member once with other taps."""
        return self._voices[member].ask(batch, taps=taps, require_grad=require_grad)

    def logits(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return each member's logits."""
        return tuple(voice(batch).logits for voice in self._voices)

    def close(self) -> None:
        """Remove every hook."""
        for voice in self._voices:
            voice.close()

    def _join(self, said: list[Outputs]) -> Outputs:
        if len(said) == 1:  # also a cohort of one: features and all
            return said[0]
        mean = torch.stack([outputs.logits for outputs in said]).mean(dim=0)
        return Outputs(mean, members=tuple(said))
