"""Backward-KD: samples moved to where student and teacher disagree, beside the given ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import IGNORE, Batch, has_label
from limbeck.errors import MethodError
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.card import Card, Cost, Paper
from limbeck.methods.context import Context
from limbeck.methods.registry import register_method
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle, View

MOVED_AT_ONCE = 256


@register_method("backward")
@dataclass(frozen=True, kw_only=True)
class Backward(Method):
    r"""Jafari et al. (2023): auxiliary samples by gradient ascent, for any method: ``KD() + this``.

    .. math:: x' \leftarrow x' + \eta \, \nabla_{x'} D(T(x'), S(x')), \quad \ell \text{ times}

    Training falls into ``rounds + 2`` parts of equal length: the given samples; in each round
    also copies of them, moved uphill from where they stand with the weights of the round's first
    epoch; the given samples again (epochs that are left over belong to this last part). A copy
    comes in the batch of its sample: a batch of n becomes one of 2n, so halve ``train.batch_size``
    for the steps of the joint set. Copies are made of the samples as evaluation sees them. The
    paper leaves open h, η, ℓ and the length of the parts.

    Args:
        weight: has no meaning here, as there are no loss terms.
        rounds: h, how often copies are made anew, at least 0; 0: none.
        rate: η, the step of the ascent, in the normalised inputs' units, at least 0.
        steps: ℓ, steps of the ascent, at least 0.
        divergence: "kl" of the tempered distributions; "mse" of the outputs; "auto": kl for
            classes, mse for other tasks.
        temperature: softening of both outputs in the divergence, above 0.
        hard_label: of copies of labelled samples: the sample's own ("source"), "none", or the
            "teacher"'s class.
        keep: also the copies of earlier rounds stay, for small sets: a batch grows by n a round.
        direction: "ascent"; or a control: "noise", a random direction of the same norm.
        bridge: of texts: how a student's moved word vectors become the teacher's: "paper" maps them
            whole; "residual" (ours) maps the move alone and adds it to the teacher's own.

    Of texts the student's word vectors move (positions and segments are added afterwards, padding
    stays out), and both networks are given word vectors instead of tokens: they must be
    transformers networks that share a vocabulary. Copies are kept in memory.
    """

    rounds: int = 4
    rate: float = 0.1
    steps: int = 5
    divergence: Literal["auto", "kl", "mse"] = "auto"
    temperature: float = 4.0
    hard_label: Literal["source", "none", "teacher"] = "source"
    keep: bool = False
    direction: Literal["ascent", "noise"] = "ascent"
    bridge: Literal["paper", "residual"] = "paper"

    card: ClassVar[Card] = Card(
        title="Backward-KD",
        paper=Paper(
            authors="Jafari, Rezagholizadeh, Ghodsi",
            year=2023,
            title="Improved Knowledge Distillation by Utilizing Backward Pass Knowledge in "
            "Neural Networks",
            arxiv="2301.12006",
        ),
        equation="x' ← x' + η ∇ D(T(x'), S(x')), ℓ times; then the methods beside it on x and x'",
        faithful="faithful in part",
        data_modification="copies of samples are moved to where student and teacher disagree",
        teachers="those of the methods beside it",
        knowledge=("gradient",),
        location=("input",),
        transfer="none of its own",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="input_gradients",
        needs_index=True,
        of_each_sample="keeps moved copies of each sample",
        cost=Cost(teacher_forwards=2.0, student_steps=2.0),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.rounds >= 0, "rounds", "a whole number of at least 0")
        self.require(self.rate >= 0, "rate", "a number of at least 0")
        self.require(self.steps >= 0, "steps", "a whole number of at least 0")
        known = self.divergence in ("auto", "kl", "mse")
        self.require(known, "divergence", "auto, kl or mse")
        self.require(self.temperature > 0, "temperature", "a number above 0")
        labels = ("source", "none", "teacher")
        self.require(self.hard_label in labels, "hard_label", "source, none or teacher")
        self.require(self.direction in ("ascent", "noise"), "direction", "ascent or noise")
        self.require(self.bridge in ("paper", "residual"), "bridge", "paper or residual")

    @property
    def of_each_sample(self) -> str:
        """Copies, where there are rounds that make some."""
        return self.card.of_each_sample if self.rounds else ""

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Make room for the copies of every sample."""
        if ctx.num_members > 1:
            raise MethodError("method backward: moves samples for one student, not for a cohort")
        if data is None:
            raise MethodError("method backward: needs data whose samples have an index")
        if self.hard_label == "teacher" and ctx.task != "classification":
            raise MethodError("method.hard_label: teacher gives a class, the task is " + ctx.task)
        if self.divergence == "kl" and ctx.task != "classification":
            raise MethodError(f"method.divergence: kl needs classes, the task is {ctx.task}: mse")
        shown = ctx.example.inputs if ctx.example is not None else None
        if isinstance(shown, Mapping) and "input_ids" in shown:
            from limbeck.methods.backward_words import WordsRuntime

            return WordsRuntime(self, student, teachers, data, ctx)
        if not isinstance(shown, Tensor) or not shown.is_floating_point():
            raise MethodError("method backward: moves numbers (images, tables), not inputs by name")
        return BackwardRuntime(self, data, shown[0])


class BackwardRuntime(Runtime):
    """Backward-KD at work: the copies and their labels."""

    moved: Tensor
    targets: Tensor
    made: Tensor

    def __init__(self, method: Backward, data: DataBundle, sample: Tensor) -> None:
        super().__init__(method)
        self.data = data
        view = data.splits["train"]
        size, generations = len(view.samples), method.rounds if method.keep else 1
        room = torch.zeros(generations, size, *sample.shape, dtype=sample.dtype)
        self.register_buffer("moved", room)
        targets = view.base_targets
        self.register_buffer("targets", targets.expand(generations, *targets.shape).clone())
        self.register_buffer("made", torch.zeros((), dtype=torch.int64))

    def examples(self, view: View, ctx: Context) -> View:
        """At the start of a round make copies.

        Raises:
            MethodError: there are fewer epochs than parts.
        """
        method = cast(Backward, self.method)
        if ctx.epochs < method.rounds + 2 and method.rounds:
            raise MethodError(
                f"method backward: {method.rounds} rounds need {method.rounds + 2} epochs or more, "
                f"there are {ctx.epochs}; set method.rounds or train.epochs"
            )
        length = ctx.epochs // (method.rounds + 2)
        part = ctx.epoch // max(1, length)
        if not 1 <= part <= method.rounds:
            self.made.zero_()
            return view
        if ctx.epoch % length == 0:
            place = part - 1 if method.keep else 0
            self.make(view, place, ctx)
            self.made.fill_(place + 1)
        return view

    def make(self, view: View, place: int, ctx: Context) -> None:
        """Move a copy of every sample of the view; each rank its share of the chunks."""
        method = cast(Backward, self.method)
        self.moved[place].zero_()
        labels = torch.zeros_like(self.targets[place])
        self.begin(place)
        for number, batch in self.chunks(view, ctx):
            moved = self.displaced(batch, number, ctx, place)
            self.store(place, batch, moved)
            if method.hard_label == "teacher":
                told = ctx.teacher(self.asked(batch, moved, place), method.teacher).logits
                labels[batch.index] = told.argmax(dim=1)
        self.moved[place] = ctx.sum(self.moved[place])
        if method.hard_label == "teacher":
            known = has_label(self.targets[place])
            self.targets[place] = torch.where(known, ctx.sum(labels), self.targets[place])

    def begin(self, place: int) -> None:
        """Get ready to make the copies of a generation."""

    def start(self, batch: Batch) -> Tensor:
        """Return what is moved."""
        inputs: Tensor = batch.inputs
        return inputs

    def asked(self, batch: Batch, moved: Tensor, place: int) -> Batch:
        """Return the batch with moved inputs, as both networks are asked about it."""
        return batch.replace(inputs=moved)

    def store(self, place: int, batch: Batch, moved: Tensor) -> None:
        """Keep the copies of a batch."""
        self.moved[place][batch.index] = moved.to(self.moved)

    def joined(self, batch: Batch, places: Iterable[int]) -> Mapping[str, Any]:
        """Return the inputs of a batch and its copies, as fields of a Batch."""
        copies = [self.moved[at][batch.index].to(batch.inputs) for at in places]
        return {"inputs": torch.cat([batch.inputs, *copies])}

    def chunks(self, view: View, ctx: Context) -> Iterator[tuple[int, Batch]]:
        """Yield this rank's share of the samples in numbered chunks, as evaluation sees them."""
        for number, start in enumerate(range(0, len(view), MOVED_AT_ONCE)):
            if number % ctx.world_size == ctx.rank:
                raw = view.fetch(torch.arange(start, min(start + MOVED_AT_ONCE, len(view))))
                shown = self.data.augment_eval(raw.inputs, raw.index)
                yield number, raw.replace(inputs=shown).to(ctx.device)

    def displaced(self, batch: Batch, number: int, ctx: Context, place: int) -> Tensor:
        """Return the batch's inputs, moved uphill; or, as a control, as far in any direction."""
        method = cast(Backward, self.method)

        def compare(inputs: Tensor) -> Tensor:
            asked = self.asked(batch, inputs, place)
            theirs = ctx.teacher(asked, method.teacher, require_grad=True).logits
            ours = ctx.student(asked, require_grad=True).logits
            return self.divergences(ours, theirs, classes=ctx.task == "classification")

        start = self.start(batch)
        moved = functional.ascend(start, compare, rate=method.rate, steps=method.steps)
        if method.direction == "ascent":
            return moved
        generator = torch.Generator().manual_seed(ctx.generator.initial_seed() + number)
        noise = torch.randn(start.shape, generator=generator).to(start)
        aside: Tensor = functional.with_norms_of(noise, moved - start)
        return start + aside

    def divergences(self, student: Tensor, teacher: Tensor, *, classes: bool) -> Tensor:
        """Return D for each sample, differentiable through both."""
        method = cast(Backward, self.method)
        if method.divergence == "mse" or not classes:
            return (student - teacher).square().sum(dim=1)
        log_q, log_p = ((z / method.temperature).log_softmax(dim=1) for z in (student, teacher))
        return functional.kl_from_log_probs(log_q, log_p, reduction="none")

    def batch(self, batch: Batch, ctx: Context) -> Batch:
        """Append a copy of each sample, of each generation that is in use.

        Copies are labelled where their samples are: the batch's share of a step stays what it was.
        """
        method, generations = cast(Backward, self.method), int(self.made)
        if not generations or batch.index is None:
            return batch
        first = 0 if method.keep else generations - 1
        places = range(first, generations)
        index = batch.index
        joined = self.joined(batch, places)
        targets = batch.targets
        if targets is not None:
            told = [self.labels(at, index).to(targets) for at in places]
            targets = torch.cat([targets, *told])
        size = len(batch) * (1 + len(places))
        changed = torch.zeros(size, dtype=torch.bool, device=index.device)
        changed[len(batch) :] = True
        if batch.changed is not None:
            changed[: len(batch)] = batch.changed
        indices = torch.cat([batch.index, *(index for _ in places)])
        return batch.replace(**joined, targets=targets, index=indices, changed=changed)

    def labels(self, place: int, index: Tensor) -> Tensor:
        """Return the labels of copies; IGNORE or NaN for none."""
        told = self.targets[place][index]
        if cast(Backward, self.method).hard_label != "none":
            return told
        return torch.full_like(told, float("nan") if told.is_floating_point() else IGNORE)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """There are no terms: the methods beside it see the copies too."""
        return {}

    def report(self) -> Mapping[str, float]:
        """How many copies a sample has in this epoch."""
        return {"copies": float(self.made)}
