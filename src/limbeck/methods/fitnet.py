"""FitNets: a layer of the student learns to predict a layer of the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.data.tokens import token_mask
from limbeck.errors import ShapeError
from limbeck.methods.base import Method, Runtime, Stage, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.layers import find_pairs
from limbeck.methods.registry import register_method
from limbeck.taps import TapPair, make_projector
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("fitnet")
@dataclass(frozen=True, kw_only=True)
class FitNet(Method):
    r"""Romero et al. (2015): squared error between a regressed student layer and a teacher layer.

    .. math:: \mathrm{mean}\,( r(F_S) - F_T )^2

    Of tokens, padding does not count (where the batch has an ``attention_mask``): each text's own
    tokens are averaged, then the texts.

    With ``hint_epochs`` the paper's two stages: first the hint alone, up to the guided layer, then
    the task and all other methods without it: ``FitNet(hint_epochs=20) + KD()``.

    Args:
        weight: weight of the hint loss (100, beside a task weight of 1: what the reference
            codebases run for the joint form).
        pairs: "auto" guides the middle stage, or the one nearest to it that fits; a tap of the same
            name in both; or pairs ``((student tap, teacher tap), …)``.
        hint_epochs: epochs of the first stage, part of ``train.epochs``, at least 0; 0: one joint
            stage.
        projector: "regressor" (convolution, batch norm, ReLU), or a kind of ``make_projector``.
        normaliser: "elementwise" mean, or the paper's "half_sum" per sample.
    """

    weight: float = 100.0
    pairs: str | tuple[Any, ...] = "auto"
    hint_epochs: int = 0
    projector: str = "regressor"
    normaliser: Literal["elementwise", "half_sum"] = "elementwise"

    card: ClassVar[Card] = Card(
        title="FitNet",
        paper=Paper(
            authors="Romero, Ballas, Kahou, Chassang, Gatta, Bengio",
            year=2015,
            title="FitNets: Hints for Thin Deep Nets",
            venue="ICLR 2015",
            arxiv="1412.6550",
        ),
        equation="mean (r(F_S) - F_T)²",
        knowledge=("feature",),
        location=("intermediate",),
        transfer="squared error",
        timing="staged",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="features",
        exempt={
            "zero_at_equality": "a learned regressor stands between the layers; with "
            "projector='identity' the term is zero",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.hint_epochs >= 0, "hint_epochs", "a whole number of at least 0")
        self.require(
            self.normaliser in ("elementwise", "half_sum"), "normaliser", "elementwise or half_sum"
        )

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the layers and build a regressor for each pair."""
        found = find_pairs(self, self.pairs, student, teachers, ctx)
        if self.pairs == "auto":
            found = [self._middle(found)]
        return FitNetRuntime(self, found)

    def _middle(self, pairs: list[TapPair]) -> TapPair:
        """Return the pair nearest to the middle that a regressor fits; raises the middle's error.

        The paper guides the middle layer; where that one is, say, smaller than the teacher's, the
        next one is guided.
        """
        middle, refusal = len(pairs) // 2, None
        for place in sorted(range(len(pairs)), key=lambda place: abs(place - middle)):
            try:
                with torch.random.fork_rng(devices=[]):
                    make_regressor(self.projector, pairs[place])
            except ShapeError as error:
                refusal = refusal or error
            else:
                return pairs[place]
        assert refusal is not None
        raise refusal


def make_regressor(projector: str, pair: TapPair) -> nn.Module:
    """Return the map from a student's layer to the teacher's: the regressor is one for maps."""
    kind = "auto" if projector == "regressor" and len(pair.student_shape) != 4 else projector
    return make_projector(kind, pair.student_shape, pair.teacher_shape, names=pair.names)


class FitNetRuntime(Runtime):
    """FitNet at work: one regressor a pair, trained with the student and left behind at deploy."""

    def __init__(self, method: FitNet, pairs: list[TapPair]) -> None:
        super().__init__(method)
        self.pairs = pairs
        self.regressors = nn.ModuleList(make_regressor(method.projector, pair) for pair in pairs)

    def student_taps(self) -> tuple[str, ...]:
        """The guided layers."""
        return tuple(pair.student for pair in self.pairs)

    def teacher_taps(self) -> tuple[str, ...]:
        """The hint layers."""
        return tuple(pair.teacher for pair in self.pairs)

    def stages(self, epochs: int) -> tuple[Stage, ...]:
        """The hint stage and the rest, where the method is staged."""
        length = cast(FitNet, self.method).hint_epochs
        if not length:
            return ()
        hint = Stage(
            name="hint", epochs=length, task=False, terms=("fitnet",), gradient_everywhere=False
        )
        return hint, Stage(name="distil", without=("fitnet",))

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"fitnet": scalar}``, the sum over the pairs."""
        method = cast(FitNet, self.method)
        values = [
            functional.hint(
                regressor(student.features[pair.student]),
                teacher.features[pair.teacher],
                normaliser=method.normaliser,
                mask=token_mask(batch.inputs, teacher.features[pair.teacher]),
            )
            for regressor, pair in zip(self.regressors, self.pairs, strict=True)
        ]
        total = values[0]
        for value in values[1:]:
            total = total + value
        return {"fitnet": total}
