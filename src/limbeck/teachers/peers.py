"""Peers: the other members of a cohort that learns together."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from limbeck.data.batch import Batch
from limbeck.errors import TeacherError
from limbeck.methods.card import Access
from limbeck.taps.outputs import Outputs
from limbeck.teachers.base import Teacher
from limbeck.teachers.digest import digest_of_parts


class PeersTeacher(Teacher):
    """What the other members of a cohort say (Zhang et al. 2018, arXiv 1706.00384).

    The engine runs the cohort once a step and hands its outputs to ``hear`` for each member; so
    it costs no forward of its own. It cannot be asked about a batch.

    Args:
        name: what methods call it.

    Attributes:
        taps: what methods want tapped in every member; the engine reads it.
    """

    access: Access = "features"
    changes = True

    def __init__(self, name: str = "peers") -> None:
        self.name = name
        self.taps: tuple[str, ...] = ()

    def set_taps(self, taps: Sequence[str]) -> None:
        """Keep the taps that the engine must put on the cohort."""
        self.taps = tuple(taps)

    def hear(self, cohort: Outputs, member: int) -> Outputs:
        """Return what member number ``member`` hears from the others.

        Args:
            cohort: the cohort's outputs of this step, with ``members``.
            member: who listens, from 0.

        Returns:
            Outputs, detached: ``members`` the others in order, ``logits`` the mean of theirs;
            features and attentions are in the members, and at the top too where there is one peer.

        Raises:
            TeacherError: the cohort has fewer than two members, or no such member.
        """
        count = len(cohort.members)
        if count < 2:
            raise TeacherError(
                f"teachers.{self.name}: a student alone has no peers (members: {count}); "
                "give a list of students"
            )
        if not 0 <= member < count:
            raise TeacherError(f"teachers.{self.name}: no member {member} in a cohort of {count}")
        others = tuple(
            voice.detach() for number, voice in enumerate(cohort.members) if number != member
        )
        if len(others) == 1:
            return Outputs(others[0].logits, others[0].features, others[0].attentions, others)
        return Outputs(torch.stack([voice.logits for voice in others]).mean(0), members=others)

    def ask(
        self, batch: Batch, *, taps: Sequence[str] | None = None, require_grad: bool = False
    ) -> Outputs:
        """Refuse: peers are heard, not asked."""
        raise TeacherError(
            f"teachers.{self.name}: peers speak only during a training step of their cohort; "
            "this method asks its teacher again: give it a fixed teacher"
        )

    def fingerprint(self) -> str:
        """Return a constant: peers change with every step and are never cached."""
        return digest_of_parts("peers")

    def describe(self) -> str:
        """Return what it is."""
        return "peers: the other members of the cohort"
