"""Superfeatures: which features act together in a teacher, for a network that explains itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Cost, Paper
from limbeck.methods.communities import communities
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.models.additive import AdditiveHead, GroupedLinear, grouping_of
from limbeck.taps import unwrap
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle

AT_ONCE = 500


@register_method("superfeatures")
@dataclass(frozen=True, kw_only=True)
class Superfeatures(Method):
    r"""Chowdhury et al. (2023): groups of features for an explaining network, before it is trained.

    .. math:: H = \mathrm{mean}_n \nabla^2_x \textstyle\sum_c \log p_c(x_n), \quad
              W = |H| + |H|^\top, \quad S_1, \dots, S_M = \mathrm{Louvain}(W)

    The teacher is an ordinary network. Features that act together in it become one superfeature,
    and its mean probabilities the prior; the student (``explaining_mlp``) is then trained as the
    methods beside this one say, on labels where there is none. Figures are those of the authors'
    code. Helps where features act together in blocks; columns that are one-hot codes of one
    category never act together by themselves, as only one of them is on.

    Args:
        weight: has no meaning here, as there are no loss terms.
        partition: "hessian"; or a control: "random", parts of equal size; "even", neighbours.
        samples: training samples of the mean, drawn by the run's seed, at least 1.
        resolution: of Louvain's method at first, above 0; moved until there are as many groups as
            the student has.
        step: by which it is moved, above 0; halved where the walk turns.
        tries: partitions looked at before giving up, at least 1.
        partition_seed: of Louvain's method, and of a random partition, at least 0.
        prior: "teacher": its mean probabilities; "uniform".
    """

    partition: Literal["hessian", "random", "even"] = "hessian"
    samples: int = 1000
    resolution: float = 1.0
    step: float = 0.01
    tries: int = 100
    partition_seed: int = 100
    prior: Literal["teacher", "uniform"] = "teacher"

    card: ClassVar[Card] = Card(
        title="Superfeatures",
        paper=Paper(
            authors="Chowdhury, Liang, Tizghadam, Albanese",
            year=2023,
            title="KED: Improving Knowledge Distillation with Teacher's Explanation",
            arxiv="2310.02572",
        ),
        equation="W = |H| + |H|ᵀ, H = mean ∇² Σ_c log p_c; groups = Louvain(W)",
        data_partition="groups of features to branches of the student",
        knowledge=("explanation",),
        location=("input",),
        transfer="none of its own",
        min_classes=2,
        teacher_access="input_gradients",
        listens=False,
        cost=Cost(teacher_forwards=0.01),  # once, before training
    )
    example_student: ClassVar[Mapping[str, Any]] = {
        "model": "explaining_mlp",
        "groups": 2,
        "width": 6,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.partition in ("hessian", "random", "even")
        self.require(known, "partition", "hessian, random or even")
        self.require(self.samples >= 1, "samples", "a whole number of at least 1")
        self.require(self.resolution > 0, "resolution", "a number above 0")
        self.require(self.step > 0, "step", "a number above 0")
        self.require(self.tries >= 1, "tries", "a whole number of at least 1")
        self.require(self.partition_seed >= 0, "partition_seed", "a whole number of at least 0")
        self.require(self.prior in ("teacher", "uniform"), "prior", "teacher or uniform")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Find the layer that keeps the groups.

        Raises:
            MethodError: the student has no groups of input features.
        """
        network = unwrap(student)
        if ctx.num_members > 1:
            raise MethodError("method superfeatures: groups one student's features, not a cohort's")
        if data is None:
            raise MethodError("method superfeatures: needs data to see features act together")
        if grouping_of(network) is None:
            raise MethodError(
                f"method superfeatures: {type(network).__name__} has no groups of input features; "
                "use student: {model: explaining_mlp}"
            )
        return SuperfeaturesRuntime(self, network)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """There are no terms."""
        return {}


class SuperfeaturesRuntime(Runtime):
    """Superfeatures at work: before the first step alone."""

    def __init__(self, method: Superfeatures, network: nn.Module) -> None:
        super().__init__(method)
        self.__dict__["network"] = network  # trained and saved elsewhere

    @property
    def grouped(self) -> GroupedLinear:
        """The layer that keeps the groups."""
        return cast(GroupedLinear, grouping_of(self.__dict__["network"]))

    def fit(self, data: DataBundle, ctx: Context) -> None:
        """Find the groups and the prior, and put them into the student."""
        method = cast(Superfeatures, self.method)
        self.grouped.regroup(self.partition(data, ctx).to(self.grouped.group.device))
        if method.prior == "teacher":
            head = cast(AdditiveHead, self.__dict__["network"].head)
            head.prior.copy_(self.mean_answer(data, ctx))

    def partition(self, data: DataBundle, ctx: Context) -> Tensor:
        """Return the group of each feature, int64 ``[features]``."""
        method, groups = cast(Superfeatures, self.method), self.grouped.groups
        size = len(self.grouped.group)
        even = torch.arange(size) * groups // size
        if method.partition == "even":
            return even
        if method.partition == "random":
            order = torch.Generator().manual_seed(method.partition_seed)
            return even[torch.randperm(size, generator=order)]
        strength = functional.feature_interactions(self.hessian(data, ctx)).cpu()
        return communities(
            strength,
            groups,
            resolution=method.resolution,
            step=method.step,
            tries=method.tries,
            seed=method.partition_seed,
        )

    def hessian(self, data: DataBundle, ctx: Context) -> Tensor:
        """Return the mean Hessian of the teacher's log-probabilities, ``[features, features]``."""
        method, view = cast(Superfeatures, self.method), data.splits["train"]
        drawn = torch.randperm(len(view), generator=torch.Generator().manual_seed(ctx.seed))
        drawn = drawn[: method.samples]
        total: Tensor | None = None
        for batch in _batches(data, drawn, ctx):

            def logits_of(inputs: Tensor, batch: Batch = batch) -> Tensor:
                asked = batch.replace(inputs=inputs)
                return ctx.teacher(asked, method.teacher, require_grad=True).logits

            share = len(batch) / len(drawn)
            part = share * functional.explanation_hessian(batch.inputs, logits_of)
            total = part if total is None else total + part
        assert total is not None
        return total

    def mean_answer(self, data: DataBundle, ctx: Context) -> Tensor:
        """Return the teacher's mean probabilities over the training part, ``[classes]``."""
        positions = torch.arange(len(data.splits["train"]))
        total = torch.zeros(data.num_outputs, dtype=torch.float64)
        for batch in _batches(data, positions, ctx):
            said = ctx.teacher(batch, self.method.teacher).logits.double().softmax(dim=1)
            total += said.sum(dim=0).cpu()
        return total / len(positions)

    def report(self) -> Mapping[str, float]:
        """How many features the largest and the smallest group have."""
        sizes = self.grouped.members().sum(dim=1)
        return {"largest_group": float(sizes.max()), "smallest_group": float(sizes.min())}


def _batches(data: DataBundle, positions: Tensor, ctx: Context) -> Iterator[Batch]:
    """Yield training samples as evaluation sees them."""
    for part in torch.split(positions, AT_ONCE):
        raw = data.splits["train"].fetch(part)
        shown = data.augment_eval(raw.inputs, raw.index)
        yield raw.replace(inputs=shown).to(ctx.device)
