"""Chimeric: samples made of blocks of others, which the teacher labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from limbeck.data.batch import IGNORE, Batch
from limbeck.errors import MethodError
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Cost, Paper
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.models.additive import GroupedLinear, grouping_of
from limbeck.taps import unwrap
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("chimeric")
@dataclass(frozen=True, kw_only=True)
class Chimeric(Method):
    r"""Chowdhury et al. (2023): a fine-tuning phase on chimeric samples: ``KED() + this``.

    .. math:: x' = (x^{(n_1)}_{S_1}, \dots, x^{(n_M)}_{S_M}), \qquad y' = \arg\max_c p_T(c \mid x')

    In the last epochs each sample gives way to a chimera, whose blocks of features (the groups of
    an ``explaining_mlp``) come from different training samples as evaluation sees them. The
    teacher labels it where its sample had a label; the methods beside this one ask the teacher
    about it. No two of the ``samples`` chimeras have the same donors in the same order.

    The groups are the student's; of a plain student, those of the first teacher that has some, so
    that KD can be fine-tuned on the same chimeras. Compare with as many epochs without.

    Args:
        weight: has no meaning here, as there are no loss terms.
        samples: how many chimeras there are, at least 1, or as many as can be made; then they
            begin anew.
        epochs: of the phase, at the end of training, at least 0 (5 in the authors' code); 0: none.
    """

    samples: int = 1_000_000
    epochs: int = 5

    card: ClassVar[Card] = Card(
        title="Chimeric set",
        paper=Paper(
            authors="Chowdhury, Liang, Tizghadam, Albanese",
            year=2023,
            title="KED: Improving Knowledge Distillation with Teacher's Explanation",
            arxiv="2310.02572",
        ),
        equation="x' = blocks of M training samples, y' = argmax p_T(x'); then the methods beside",
        faithful="faithful in part",
        data_modification="blocks of features are put together from different samples",
        teachers="those of the methods beside it",
        knowledge=("selection",),
        location=("input",),
        transfer="none of its own",
        timing="staged",
        needs_index=True,
        of_each_sample="makes labelled samples in the place of each",
        listens=False,
        cost=Cost(teacher_forwards=1.0),
    )
    example_student: ClassVar[Mapping[str, Any]] = {
        "model": "explaining_mlp",
        "groups": 2,
        "width": 6,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.samples >= 1, "samples", "a whole number of at least 1")
        self.require(self.epochs >= 0, "epochs", "a whole number of at least 0")

    @property
    def of_each_sample(self) -> str:
        """Chimeras, where there is a phase of them."""
        return self.card.of_each_sample if self.epochs else ""

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Find the groups.

        Raises:
            MethodError: no network has groups of input features.
        """
        if ctx.num_members > 1:
            raise MethodError("method chimeric: makes samples for one student, not for a cohort")
        if data is None:
            raise MethodError("method chimeric: needs data whose samples have an index")
        for name, one in teachers.items():
            if self.epochs and one.learner is not None:
                raise MethodError(
                    f"method chimeric: labels its chimeras by a teacher, and the online teacher "
                    f"{name!r} would learn from its own answers; use a teacher that has learned"
                )
        networks = [unwrap(student)]
        networks += [unwrap(one.module) for one in teachers.values() if one.module is not None]
        grouped = next((layer for net in networks if (layer := grouping_of(net))), None)
        if grouped is None:
            raise MethodError(
                "method chimeric: neither the student nor a teacher has groups of input features; "
                "use explaining_mlp for one of them"
            )
        return ChimericRuntime(self, grouped, data)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """There are no terms: the methods beside it see the chimeras."""
        return {}


class ChimericRuntime(Runtime):
    """Chimeric at work. Which donors a chimera has is a function of the run's seed."""

    def __init__(self, method: Chimeric, grouped: GroupedLinear, data: DataBundle) -> None:
        super().__init__(method)
        self.__dict__["grouped"] = grouped  # trained and saved elsewhere
        self.data = data
        self._donors: Tensor | None = None
        self.places = torch.full((len(data.splits["train"].samples),), -1)
        self.places[data.splits["train"].indices] = torch.arange(len(data.splits["train"]))

    def donors(self, ctx: Context) -> Tensor:
        """Return the donors of each chimera, positions in the training part ``[n, groups]``."""
        if self._donors is None:
            method, size = cast(Chimeric, self.method), len(self.data.splits["train"])
            groups = self.__dict__["grouped"].groups
            count = min(method.samples, method.epochs * size, size**groups)
            generator = torch.Generator().manual_seed(ctx.seed)
            self._donors = distinct_tuples(count, size, groups, generator)
        return self._donors

    def batch(self, batch: Batch, ctx: Context) -> Batch:
        """In the phase, return chimeras instead of the samples."""
        phase = ctx.epoch - (ctx.epochs - cast(Chimeric, self.method).epochs)
        if phase < 0 or batch.index is None:
            return batch
        donors = self.donors(ctx)
        visit = phase * len(self.data.splits["train"]) + self.places[batch.positions]
        inputs = self.compose(donors[visit % len(donors)]).to(batch.inputs)
        everything = torch.ones(len(inputs), dtype=torch.bool, device=inputs.device)
        made = batch.replace(inputs=inputs, teacher_inputs=None, changed=everything)
        if batch.targets is None:
            return made
        said = ctx.teacher(made, self.method.teacher).logits.argmax(dim=1)
        labels = torch.where(batch.targets != IGNORE, said.to(batch.targets), batch.targets)
        return made.replace(targets=labels)

    def compose(self, donors: Tensor) -> Tensor:
        """Return chimeras ``[n, ...]`` of donors ``[n, groups]``, as evaluation sees samples."""
        raw = self.data.splits["train"].fetch(donors.flatten())
        shown: Tensor = self.data.augment_eval(raw.inputs, raw.index)
        blocks = shown.reshape(*donors.shape, -1)  # [n, groups, features]
        group = self.__dict__["grouped"].group.cpu()
        whole = blocks.gather(1, group.expand(len(donors), 1, -1)).squeeze(1)
        return whole.reshape(len(donors), *shown.shape[1:])

    def report(self) -> Mapping[str, float]:
        """How many chimeras there are."""
        return {"chimeras": float(0 if self._donors is None else len(self._donors))}


def distinct_tuples(count: int, size: int, length: int, generator: torch.Generator) -> Tensor:
    """Draw different tuples of numbers below ``size``, all alike likely, int64 ``[count, length]``.

    Args:
        count: how many, at most ``size ** length``.
        size: of what the entries are drawn from.
        length: entries of a tuple.
        generator: what is drawn from.
    """
    every = size**length
    if every <= 4 * count:  # few are left out: draw from a list of all
        numbers = torch.randperm(every, generator=generator)[:count]
        return torch.stack([numbers // size**place % size for place in range(length)], dim=1)
    found = torch.empty(0, length, dtype=torch.int64)
    while len(found) < count:
        more = torch.randint(size, (count + count // 8 + 8, length), generator=generator)
        found = torch.unique(torch.cat([found, more]), dim=0)
    return found[torch.randperm(len(found), generator=generator)[:count]]
