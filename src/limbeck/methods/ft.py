"""FT: the student's translation should say what the teacher's paraphrase says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data import batches
from limbeck.data.batch import Batch
from limbeck.errors import ShapeError
from limbeck.kernels.optimizers import SGD
from limbeck.methods.base import Runtime, Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.context import Context
from limbeck.methods.paired import Paired, PairedRuntime, total
from limbeck.methods.registry import register_method
from limbeck.taps import TapPair
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle


@register_method("ft")
@dataclass(frozen=True, kw_only=True)
class FT(Paired):
    r"""Kim, Park and Kwak (2018): factors of the last maps, paraphrased and translated.

    .. math:: \mathrm{mean} \, \left| f(\mathrm{trans}(F_S)) - f(\mathrm{para}(F_T)) \right|

    The paraphraser is the encoder of an autoencoder of the teacher's map. It is fitted on the
    training data before the first step, and fixed then; the translator is trained with the student.
    Both stay behind. The log of each epoch has the paraphraser's reconstruction error.

    Args:
        weight: weight of the term (200, beside a task weight of 1, as RepDistiller runs it; it
            belongs to the form "attention").
        pairs: "auto" takes the last stages; a tap of the same name in both; or pairs
            ``((student tap, teacher tap), …)``.
        form: f: "attention" normalises the mean over channels of squares, "flat" all entries.
        rate: channels of a factor for each channel of the teacher, above 0.
        fit_epochs: epochs in which the paraphraser is fitted, before the run's own, at least 1.
        fit_lr: their learning rate (SGD with momentum 0.9), above 0.
        fit_batch_size: their samples a step, at least 2.
    """

    weight: float = 200.0
    pairs: str | tuple[Any, ...] = "auto"
    form: Literal["attention", "flat"] = "attention"
    rate: float = 0.5
    fit_epochs: int = 30
    fit_lr: float = 0.01
    fit_batch_size: int = 64

    automatic: ClassVar[tuple[tuple[str, str], ...]] = (("stages[-1]", "stages[-1]"),)
    reads: ClassVar[tuple[str, ...]] = ("maps",)
    card: ClassVar[Card] = Card(
        title="FT",
        paper=Paper(
            authors="Kim, Park, Kwak",
            year=2018,
            title="Paraphrasing Complex Network: Network Compression via Factor Transfer",
            venue="NeurIPS 2018",
            arxiv="1802.04977",
        ),
        equation="mean |f(trans(F_S)) - f(para(F_T))|, f = mean_c F² / ‖mean_c F²‖",
        knowledge=("feature",),
        location=("intermediate",),
        transfer="absolute difference of normalised factors",
        timing="staged",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="features",
        exempt={"zero_at_equality": "translator and paraphraser are different learned maps"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.form in ("attention", "flat"), "form", "attention or flat")
        self.require(self.rate > 0, "rate", "a number above 0")
        self.require(self.fit_epochs >= 1, "fit_epochs", "a whole number of at least 1")
        self.require(self.fit_lr > 0, "fit_lr", "a number above 0")
        self.require(self.fit_batch_size >= 2, "fit_batch_size", "a whole number of at least 2")

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the layers; build paraphraser and translator."""
        return FTRuntime(self, self.find_pairs(student, teachers, ctx))

    def _check_forms(self, pair: TapPair) -> None:
        super()._check_forms(pair)
        sizes = zip(pair.student_shape[2:], pair.teacher_shape[2:], strict=True)
        if self.form == "attention" and all(min(both) == 1 for both in sizes):
            raise ShapeError(
                f"method ft: student tap {pair.student!r} {list(pair.student_shape)} and teacher "
                f"tap {pair.teacher!r} {list(pair.teacher_shape)} have one position in common, and "
                "a normalised map of one position is always 1; set form: flat, or name larger "
                "layers (pairs: [[student tap, teacher tap]])"
            )


class FTRuntime(PairedRuntime):
    """FT at work: a fixed paraphraser and a translator that learns, for each pair."""

    reconstruction: Tensor

    def __init__(self, method: FT, pairs: Sequence[TapPair]) -> None:
        super().__init__(method, pairs)
        widths = [(pair.student_shape[1], pair.teacher_shape[1]) for pair in pairs]
        factors = [max(int(theirs * method.rate), 1) for _, theirs in widths]
        self.paraphrasers = nn.ModuleList(
            Paraphraser(theirs, factor) for (_, theirs), factor in zip(widths, factors, strict=True)
        )
        self.paraphrasers.requires_grad_(False)  # fixed for the run's optimiser
        self.translators = nn.ModuleList(
            make_encoder(ours, factor, norm=True)
            for (ours, _), factor in zip(widths, factors, strict=True)
        )
        self.register_buffer("reconstruction", torch.zeros(()))

    def fit(self, data: DataBundle, ctx: Context) -> None:
        """Fit the paraphrasers on the teacher's maps of the training data."""
        method = cast(FT, self.method)
        self.paraphrasers.requires_grad_(True)
        optimizer = SGD(
            self.paraphrasers.parameters(), lr=method.fit_lr, momentum=0.9, weight_decay=5e-4
        )
        for epoch in range(method.fit_epochs):
            errors = [
                self._fit_step(batch.to(ctx.device), optimizer, ctx)
                for batch in training_batches(data, method.fit_batch_size, ctx.seed, epoch)
            ]
            self.reconstruction.copy_(torch.stack(errors).mean())
        self.paraphrasers.requires_grad_(False)
        for parameter in self.paraphrasers.parameters():
            parameter.grad = None

    def _fit_step(self, batch: Batch, optimizer: torch.optim.Optimizer, ctx: Context) -> Tensor:
        """Take one step; return the error before it."""
        said = ctx.teacher(batch, self.method.teacher, taps=self.teacher_taps()).features
        with torch.enable_grad():
            maps = [said[tap].detach() for tap in self.teacher_taps()]
            pairs = zip(self.paraphrasers, maps, strict=True)
            loss = total(
                [functional.hint(cast(Paraphraser, p).reconstruct(seen), seen) for p, seen in pairs]
            )
            optimizer.zero_grad()
            torch.autograd.backward(loss)
        optimizer.step()
        return loss.detach()

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return ``{"ft": scalar}``, the sum over the pairs."""
        ours, theirs = self.features(student, teacher)
        rows = zip(self.translators, self.paraphrasers, ours, theirs, strict=True)
        form = cast(FT, self.method).form
        values = [
            functional.factor_transfer(translate(mine), paraphrase(other.detach()), form=form)
            for translate, paraphrase, mine, other in rows
        ]
        return {"ft": total(values)}

    def report(self) -> Mapping[str, float]:
        """The mean squared error of the last epoch in which the paraphrasers were fitted."""
        return {"reconstruction": float(self.reconstruction)}


class Paraphraser(nn.Module):
    """An autoencoder of maps, three 3x3 convolutions each way; calling it gives the factor."""

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.encoder = make_encoder(width, factor, norm=False)
        steps = ((factor, factor), (factor, width), (width, width))
        parts = [[nn.ConvTranspose2d(a, b, 3, 1, 1), nn.LeakyReLU(0.1)] for a, b in steps]
        self.decoder = nn.Sequential(*(part for step in parts for part in step))

    def forward(self, feature: Tensor) -> Tensor:
        """Return the factor, ``[batch, factor, height, width]``."""
        factor: Tensor = self.encoder(feature)
        return factor

    def reconstruct(self, feature: Tensor) -> Tensor:
        """Return the map rebuilt from its factor."""
        rebuilt: Tensor = self.decoder(self.encoder(feature))
        return rebuilt


def make_encoder(width: int, factor: int, *, norm: bool) -> nn.Sequential:
    """Return three 3x3 convolutions to a factor, with leaky ReLUs and, if wanted, batch norms."""
    parts: list[nn.Module] = []
    for a, b in ((width, width), (width, factor), (factor, factor)):
        parts.append(nn.Conv2d(a, b, 3, padding=1))
        if norm:
            parts.append(nn.BatchNorm2d(b))
        parts.append(nn.LeakyReLU(0.1))
    return nn.Sequential(*parts)


def training_batches(data: DataBundle, size: int, seed: int, epoch: int) -> Iterator[Batch]:
    """Yield the training samples once, augmented, in the order of (seed, epoch)."""
    view = data.splits["train"]
    steps = batches(view, batch_size=size, seed=seed, epoch=epoch, augment=data.augment_train)
    for (batch,) in steps:
        yield batch
