"""QuEST: the student guesses which of the teacher's visual words each position is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import IGNORE, Batch
from limbeck.errors import MethodError, ShapeError
from limbeck.methods.base import Runtime, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.codebooks import Codewords, Subclasses, learn_together, student_positions
from limbeck.methods.context import Context
from limbeck.methods.paired import FORMS, Paired
from limbeck.methods.registry import register_method
from limbeck.models.knowledge_layer import CosineMap, as_positions
from limbeck.taps import TapPair
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle

WORDS = 4096  # the paper's
FEWEST_EACH = 8  # positions for each word, where the number of words is open


@register_method("quest")
@dataclass(frozen=True, kw_only=True)
class QuEST(Paired):
    r"""Jain et al. (2020): predict the teacher's quantised features, position by position.

    .. math:: \mathrm{mean}_i \, \mathrm{KL}(p^T_i \| p^S_i), \quad
              p^T_{i,k} \propto e^{-t \|f_i - \rho_k\|^2}, \quad
              p^S_{i,k} \propto e^{s \cos(w_k, x_i)}

    The words ρ are k-means centres of the teacher's features over the training set, found once
    before the first step. The templates w and their scale s are learned with the student and left
    behind. ``letkd1`` is this with the templates kept and used by the student.

    Args:
        weight: weight of the term (1, beside a task weight of 1).
        pairs: "auto" takes the last stage of both; a tap of the same name in both; or pairs
            ``((student tap, teacher tap), …)``. A teacher's map of another size than the student's
            is average-pooled to it.
        codewords: K, from 1 to the number of positions; None: 4096, the paper's, or an eighth of
            the training set's positions where that is fewer.
        temperature: t, above 0, a factor: large is sharp.
        max_positions: the most positions that the words are found from, at least 1, drawn evenly
            over the samples (ours; the authors take all).
    """

    weight: float = 1.0
    pairs: str | tuple[Any, ...] = "auto"
    codewords: int | None = None
    temperature: float = 1.0
    max_positions: int = 1_000_000

    automatic: ClassVar[tuple[tuple[str, str], ...]] = (("stages[-1]", "stages[-1]"),)
    reads: ClassVar[tuple[str, ...]] = ("maps", "tokens", "vectors")
    card: ClassVar[Card] = Card(
        title="QuEST",
        paper=Paper(
            authors="Jain, Gidaris, Komodakis, Pérez, Cord",
            year=2020,
            title="QuEST: Quantized Embedding Space for Transferring Knowledge",
            venue="ECCV 2020",
            arxiv="1912.01540",
        ),
        equation="mean_i KL(softmax_k(-t ‖f_i - ρ_k‖²) ‖ softmax_k(s cos(w_k, x_i)))",
        faithful="faithful in part",
        knowledge=("feature",),
        location=("intermediate",),
        transfer="KL of assignments to visual words",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="features",
        exempt={"zero_at_equality": "learned templates stand between the features and the guess"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.codewords is None or self.codewords >= 1
        self.require(known, "codewords", "a whole number of at least 1, or none")
        self.require(self.temperature > 0, "temperature", "a number above 0")
        self.require(self.max_positions >= 1, "max_positions", "a whole number of at least 1")
        fits = self.codewords is None or self.codewords <= self.max_positions
        self.require(fits, "codewords", f"at most max_positions, {self.max_positions}")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the layers; build words (to be found yet) and templates for each pair."""
        pairs = self.find_pairs(student, teachers, ctx)
        targets = [self.make_words(pair, data) for pair in pairs]
        return QuESTRuntime(self, [Guess(pair, self.name, 1.0) for pair in pairs], targets)

    def make_words(self, pair: TapPair, data: DataBundle | None) -> Codewords:
        """Return as many words as asked for, or as many as the training set has positions for.

        Raises:
            MethodError: more words than positions.
        """
        positions = self.max_positions
        if data is not None:
            positions = min(positions, len(data.splits["train"]) * num_positions(pair))
        count = self.codewords or max(1, min(WORDS, positions // FEWEST_EACH))
        if count > positions:
            raise MethodError(
                f"method.codewords: expected at most {positions}, one for each position of the "
                f"training set, got {count} ({self.name})"
            )
        return Codewords(width(pair.teacher_shape), count, self.temperature)

    def _check_forms(self, pair: TapPair, key: str = "pairs") -> None:
        shapes = pair.student_shape, pair.teacher_shape
        forms = [FORMS.get(len(shape)) for shape in shapes]
        reason = ""
        if forms[0] != forms[1] or forms[0] not in self.reads:
            reason = f"compares {' or '.join(self.reads)} of both"
        elif forms[0] == "tokens" and shapes[0][1] != shapes[1][1]:
            reason = "the numbers of tokens differ"
        if reason:
            raise ShapeError(
                f"method {self.name}: student tap {pair.student!r} {list(shapes[0])} and teacher "
                f"tap {pair.teacher!r} {list(shapes[1])}: {reason}; name layers that fit "
                f"({key}: [[student tap, teacher tap]], or {key}: penultimate for the vectors "
                "that the heads read)"
            )


@dataclass(frozen=True)
class Guess:
    """A place where the student guesses.

    Attributes:
        pair: the layers.
        term: name of the loss term.
        weight: of the place within the term.
    """

    pair: TapPair
    term: str
    weight: float


class GuessRuntime(Runtime):
    """A method at work whose student guesses what a position is to the teacher."""

    def __init__(
        self,
        method: QuEST,
        guesses: Sequence[Guess],
        targets: Sequence[Codewords | Subclasses],
        changed_student: nn.Module | None = None,
    ) -> None:
        super().__init__(method, changed_student)
        self.guesses = list(guesses)
        self.targets = nn.ModuleList(targets)

    def teacher_taps(self) -> tuple[str, ...]:
        """The layers whose positions have names."""
        return tuple(guess.pair.teacher for guess in self.guesses)

    def fit(self, data: DataBundle, ctx: Context) -> None:
        """Find words and sub-classes in what the teacher makes of the training set."""
        method = cast(QuEST, self.method)
        learn_together(
            list(self.targets),
            self.teacher_taps(),
            [guess.pair.student_shape[2:] for guess in self.guesses],
            data,
            ctx,
            method.teacher,
            method.max_positions,
        )

    def scores(self, student: Outputs) -> list[Tensor]:
        """Return the student's scores, ``[batch, words, positions]`` for each place."""
        raise NotImplementedError

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return the divergences of the guesses; of unlabelled images where labels are needed, 0.

        Raises:
            MethodError: labels are needed, and are no class indices.
        """
        total: dict[str, Tensor] = {}
        for guess, target, said in zip(
            self.guesses, self.targets, self.scores(student), strict=True
        ):
            heard = teacher.features[guess.pair.teacher].detach()
            positions = student_positions(heard, guess.pair.student_shape[2:])
            labels = None
            if target.needs_labels:
                labels = class_labels(self.method.name, batch)
                known = labels != IGNORE
                positions, said, labels = positions[known], said[known], labels[known]
            value = guess.weight * functional.assignment_kl(said, target(positions, labels))
            total[guess.term] = total[guess.term] + value if guess.term in total else value
        return total

    def report(self) -> Mapping[str, float]:
        """How many words there are, where the data decided it."""
        if cast(QuEST, self.method).codewords is not None:
            return {}
        return {"codewords": float(cast(Codewords, self.targets[-1]).size)}


class QuESTRuntime(GuessRuntime):
    """QuEST at work: the templates learn with the student and are left behind."""

    def __init__(
        self, method: QuEST, guesses: Sequence[Guess], targets: Sequence[Codewords | Subclasses]
    ) -> None:
        super().__init__(method, guesses, targets)
        self.templates = nn.ModuleList(
            CosineMap(width(guess.pair.student_shape), target.size, scale=3.0)
            for guess, target in zip(guesses, targets, strict=True)
        )

    def student_taps(self) -> tuple[str, ...]:
        """The layers that are guessed from."""
        return tuple(guess.pair.student for guess in self.guesses)

    def scores(self, student: Outputs) -> list[Tensor]:
        """Return the cosines with the templates."""
        features = [student.features[guess.pair.student] for guess in self.guesses]
        return [
            templates(as_positions(feature))
            for templates, feature in zip(self.templates, features, strict=True)
        ]


def width(shape: Sequence[int]) -> int:
    """Return the number of channels of maps and vectors, or of a token's entries."""
    return shape[2] if len(shape) == 3 else shape[1]


def num_positions(pair: TapPair) -> int:
    """Return how many positions the student's layer has in one sample."""
    shape = pair.student_shape
    return shape[1] if len(shape) == 3 else int(torch.Size(shape[2:]).numel())


def class_labels(method: str, batch: Batch) -> Tensor:
    """Return the class of each image, ``IGNORE`` without one.

    Raises:
        MethodError: there are no labels, or they are no class indices.
    """
    targets = batch.targets
    if targets is None or targets.is_floating_point() or targets.ndim != 1:
        found = "none" if targets is None else f"{targets.dtype} of shape {tuple(targets.shape)}"
        raise MethodError(f"method {method}: needs one class index for each sample, got {found}")
    return targets
