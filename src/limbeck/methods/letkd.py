"""letKD: a layer that stays in the student lets it decide what to do with the teacher's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from limbeck.errors import MethodError, TapError
from limbeck.methods.base import Runtime
from limbeck.methods.card import Card, Paper
from limbeck.methods.codebooks import Codewords, Subclasses
from limbeck.methods.context import Context
from limbeck.methods.layers import find_pairs, teacher_with_layers
from limbeck.methods.quest import Guess, GuessRuntime, QuEST, width
from limbeck.methods.registry import register_method
from limbeck.models.grown import graft, grown_spec
from limbeck.models.knowledge_layer import KnowledgeLayer
from limbeck.taps import TapPair, resolve_taps
from limbeck.taps.outputs import Outputs
from limbeck.taps.pairing import first_member

if TYPE_CHECKING:
    from limbeck.data import DataBundle

MOST_COMPONENTS = 60  # the authors' for CIFAR-100


@register_method("letkd1")
@dataclass(frozen=True, kw_only=True)
class LetKD1(QuEST):
    r"""Gorgun, Gurbuz and Alatan (2023): the student guesses the teacher's words, and uses them.

    .. math:: \hat{x} = x + \alpha \, V(\mathrm{ReLU}(\mathrm{BN}(a))), \quad
              a_{i,k} = s \cos(w_k, x_i), \qquad
              \mathrm{mean}_i \, \mathrm{KL}(p^T_i \| \mathrm{softmax}(a_i))

    A layer behind the student's last stage scores each position against K templates; the scores
    are supervised as in QuEST. What batch norm and ReLU leave of them weighs K value vectors (V, by
    cosine too), whose sum is added to the features. The layer stays in the deployed student. There
    is no term on logits.

    Args:
        weight: weight of the term (1, beside a task weight of 1).
        pairs: "auto" takes the last stage of both, as the authors' code cuts its networks; a tap
            of the same name in both; or pairs ``((student tap, teacher tap), …)``. A teacher's map
            of another size than the student's is average-pooled to it.
        codewords: K, from 1 to the number of positions; None: 4096, the paper's, or an eighth of
            the training set's positions where that is fewer.
        temperature: t, above 0, a factor: large is sharp.
        max_positions: the most positions that the words are found from, at least 1, drawn evenly
            over the samples (ours; the authors take all).
        ratio: α, at least 0 (1; 0.1 for ResNet-50 to MobileNetV2 on CIFAR-100, 0.5 on
            Tiny-ImageNet). With 0 this is QuEST, with templates that stay.
    """

    ratio: float = 1.0

    card: ClassVar[Card] = replace(
        QuEST.card,
        title="letKD-1",
        paper=Paper(
            authors="Gorgun, Gurbuz, Alatan",
            year=2023,
            title="Knowledge Distillation Layer that Lets the Student Decide",
            venue="BMVC 2023",
            arxiv="2309.02843",
        ),
        equation="mean_i KL(softmax_k(-t ‖f_i - ρ_k‖²) ‖ softmax(a_i)), "
        "x̂ = x + α V(ReLU(BN(a))), a = s cos(w, x)",
        faithful="faithful",
        deploys="grown",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.ratio >= 0, "ratio", "a number of at least 0")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the layers, and put a layer of the method's own behind each of the student's."""
        pairs = self.find_pairs(student, teachers, ctx)
        targets = [self.make_words(pair, data) for pair in pairs]
        guesses = [Guess(pair, self.name, 1.0) for pair in pairs]
        return LetKDRuntime(self, guesses, targets, [self.ratio] * len(pairs), student)


@register_method("letkd2")
@dataclass(frozen=True, kw_only=True)
class LetKD2(LetKD1):
    r"""letKD-1 with a second layer, which guesses what the teacher takes a position's class for.

    .. math:: \mathrm{mean}_i \, \mathrm{KL}(s_T[k^*_i, y] \| \mathrm{softmax}(a_i)), \quad
              k^*_i = \arg\min_k \| \mathrm{LDA}(f_i) - \rho^{k,y} \|^2

    beside the term of letKD-1. Each class has sub-classes: k-means centres of the teacher's
    features under a linear discriminant analysis, at every position. A row of s_T says which share
    of a sub-class's positions is nearest to which sub-class's mean, of all classes. Samples without
    a label have no part in the second term.

    Args:
        weight: weight of both terms (1, beside a task weight of 1).
        pairs: of the layer of letKD-1: "auto" takes the last stage of both; a tap of the same name
            in both; or pairs ``((student tap, teacher tap), …)``.
        codewords: K, from 1 to the number of positions; None: 4096, the paper's, or an eighth of
            the training set's positions where that is fewer.
        temperature: t, above 0, a factor: large is sharp.
        max_positions: the most positions that words and sub-classes are found from, at least 1.
        ratio: α of the layer of letKD-1, at least 0.
        inner: of the second layer: "auto" takes the first block of the last stage in both, or the
            stage before the last where that one has no blocks (ours); or as ``pairs``.
        inner_ratio: α of the second layer, at least 0 (1; 0.2 for ResNet-50 to MobileNetV2 on
            CIFAR-100).
        inner_weight: weight of the second term beside the first, at least 0 (1).
        subclasses: how many each class has, at least 1 (8).
        components: how many LDA keeps, at least 1; None: 60, the authors' for CIFAR-100, or as many
            as there are (classes - 1, channels) where that is fewer (the authors keep 8 on
            CIFAR-10).
    """

    inner: str | tuple[Any, ...] = "auto"
    inner_ratio: float = 1.0
    inner_weight: float = 1.0
    subclasses: int = 8
    components: int | None = None

    card: ClassVar[Card] = replace(
        LetKD1.card,
        title="letKD-2",
        equation="letKD-1 + mean_i KL(s_T[k*, y] ‖ softmax(a_i)), "
        "k* = argmin_k ‖LDA(f_i) - ρ^(k,y)‖²",
        supervision="labels",
        tasks=("classification",),
        min_classes=2,
        max_classes=1000,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("inner_ratio", "inner_weight"):
            self.require(getattr(self, key) >= 0, key, "a number of at least 0")
        self.require(self.subclasses >= 1, "subclasses", "a whole number of at least 1")
        known = self.components is None or self.components >= 1
        self.require(known, "components", "a whole number of at least 1, or none")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the layers of both kinds, and grow the student at both."""
        outer = self.find_pairs(student, teachers, ctx)
        inner = self._find_inner(student, teachers, ctx)
        targets: list[Codewords | Subclasses] = [self._make_subclasses(p, ctx) for p in inner]
        targets += [self.make_words(pair, data) for pair in outer]
        guesses = [Guess(pair, f"{self.name}_subclass", self.inner_weight) for pair in inner]
        guesses += [Guess(pair, self.name, 1.0) for pair in outer]
        ratios = [self.inner_ratio] * len(inner) + [self.ratio] * len(outer)
        return LetKDRuntime(self, guesses, targets, ratios, student)

    def _find_inner(
        self, student: nn.Module, teachers: Mapping[str, Any], ctx: Context
    ) -> list[TapPair]:
        wanted: Any = self.inner
        if wanted == "auto":
            (last,) = find_pairs(self, "stages[-1]", student, teachers, ctx)
            networks = student, teacher_with_layers(self, teachers).module
            blocks = [
                first_block(first_member(network), tap)
                for network, tap in zip(networks, last.names, strict=True)
            ]
            wanted = (tuple(block or "stages[-2]" for block in blocks),)
        try:
            found = find_pairs(self, wanted, student, teachers, ctx)
        except TapError as error:
            raise TapError(
                f"method {self.name}: {error}; say where the second layer goes "
                "(inner: [[student tap, teacher tap]])"
            ) from error
        for pair in found:
            self._check_forms(pair, "inner")
        return found

    def _make_subclasses(self, pair: TapPair, ctx: Context) -> Subclasses:
        channels = width(pair.teacher_shape)
        most = max(1, min(ctx.num_outputs - 1, channels))
        count = self.components or min(MOST_COMPONENTS, most)
        if count > most:
            raise MethodError(
                f"method.components: expected at most {most} (classes - 1, and channels of the "
                f"teacher's layer), got {count} ({self.name})"
            )
        return Subclasses(channels, ctx.num_outputs, self.subclasses, count)


class LetKDRuntime(GuessRuntime):
    """letKD at work: the layers are the student's own, their scores are read off them."""

    def __init__(
        self,
        method: LetKD1,
        guesses: Sequence[Guess],
        targets: Sequence[Codewords | Subclasses],
        ratios: Sequence[float],
        student: nn.Module,
    ) -> None:
        super().__init__(method, guesses, targets, student)
        like = next(student.parameters(), torch.empty(0))
        layers, self.parts = [], []
        for guess, target, ratio in zip(guesses, targets, ratios, strict=True):
            (tap,) = resolve_taps(student, guess.pair.student)
            if not tap.path or tap.side == "attention":
                raise MethodError(
                    f"method {method.name}: student tap {guess.pair.student!r}: a layer is put "
                    "behind or before a module; name one (pairs: [[student tap, teacher tap]])"
                )
            arguments: dict[str, Any] = {
                "channels": width(guess.pair.student_shape),
                "templates": target.size,
                "ratio": ratio,
            }
            layer = KnowledgeLayer(**arguments).to(like.device, like.dtype)
            graft(student, tap.path, layer, tap.side)
            layers.append(layer)
            self.parts.append(
                {
                    "at": tap.path,
                    "side": tap.side,
                    "part": "knowledge_layer",
                    "arguments": arguments,
                }
            )
        # A later layer may stand around an earlier one: paths are known when all are in place.
        paths = {module: name for name, module in student.named_modules()}
        self._taps = tuple(f"{paths[layer]}.templates" for layer in layers)

    def student_taps(self) -> tuple[str, ...]:
        """The scores of the layers."""
        return self._taps

    def scores(self, student: Outputs) -> list[Tensor]:
        """Return what the layers' templates said."""
        return [student.features[tap] for tap in self._taps]

    def deployed_spec(
        self, spec: Mapping[str, Any] | None, student: nn.Module
    ) -> Mapping[str, Any] | None:
        """Return how to rebuild the student with its layers."""
        return grown_spec(spec, self.parts)


def first_block(network: nn.Module, tap: str) -> str | None:
    """Return the path of the first block of a stage: a part with parts and parameters of its own.

    None where the stage is no sequence of such.
    """
    (resolved,) = resolve_taps(network, tap)
    stage = network.get_submodule(resolved.path)
    if not isinstance(stage, nn.Sequential | nn.ModuleList):
        return None
    for name, part in stage.named_children():
        if any(True for _ in part.children()) and any(True for _ in part.parameters()):
            return f"{resolved.path}.{name}"
    return None
