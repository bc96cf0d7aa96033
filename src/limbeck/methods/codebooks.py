"""What a teacher's positions are called: codewords, and sub-classes of the classes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data import eval_batches
from limbeck.data.batch import IGNORE
from limbeck.errors import MethodError
from limbeck.methods.context import Context
from limbeck.models.knowledge_layer import as_positions

if TYPE_CHECKING:
    from limbeck.data import DataBundle

FIT_BATCH = 64


class Codewords(nn.Module):
    """k-means centres of the teacher's positions; the target is a soft assignment to them.

    Args:
        channels: of the teacher's features.
        words: how many centres.
        temperature: see ``functional.codeword_probabilities``.
    """

    words: Tensor
    needs_labels = False

    def __init__(self, channels: int, words: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.register_buffer("words", torch.randn(words, channels))

    @property
    def size(self) -> int:
        """How many words there are to guess from."""
        return len(self.words)

    def forward(self, positions: Tensor, labels: Tensor | None) -> Tensor:
        """Return ``[batch, words, positions]``, sums of 1, for ``[batch, channels, positions]``."""
        return functional.codeword_probabilities(
            positions, self.words, temperature=self.temperature
        )

    def learn(self, rows: Tensor, labels: Tensor, seed: int) -> None:
        """Cluster rows ``[positions, channels]``."""
        from sklearn.cluster import MiniBatchKMeans

        count = self.size
        with quiet_clustering():
            found = MiniBatchKMeans(
                count, n_init=1, random_state=seed, batch_size=max(1024, 2 * count)
            ).fit(rows.numpy())
        self.words.copy_(torch.from_numpy(found.cluster_centers_))


class Subclasses(nn.Module):
    """What the teacher takes a sub-class of the true class for: LDA, k-means in each class, means.

    Args:
        channels: of the teacher's features.
        classes: how many.
        subclasses: of each.
        components: that LDA keeps.
    """

    projection: Tensor
    offset: Tensor
    centres: Tensor
    decisions: Tensor
    needs_labels = True

    def __init__(self, channels: int, classes: int, subclasses: int, components: int) -> None:
        super().__init__()
        self.register_buffer("projection", torch.randn(components, channels))
        self.register_buffer("offset", torch.zeros(components))
        self.register_buffer("centres", torch.randn(classes, subclasses, components))
        self.register_buffer("decisions", torch.eye(classes * subclasses))

    @property
    def size(self) -> int:
        """How many sub-classes there are to guess from."""
        return len(self.decisions)

    def forward(self, positions: Tensor, labels: Tensor | None) -> Tensor:
        """Return ``[batch, classes * subclasses, positions]``; every image has a label."""
        assert labels is not None
        projected = self.projection.to(positions) @ positions + self.offset.to(positions)[:, None]
        which = functional.nearest_subclass(projected, self.centres, labels)
        return self.decisions[which].mT

    def learn(self, rows: Tensor, labels: Tensor, seed: int) -> None:
        """Fit LDA and the centres on labelled rows; see whom each sub-class is nearest to."""
        from sklearn.cluster import KMeans
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        kept = len(self.offset)
        with quiet_clustering():
            lda = LinearDiscriminantAnalysis().fit(rows.double().numpy(), labels.numpy())
            scalings = torch.from_numpy(lda.scalings_[:, :kept]).T
            mean = torch.from_numpy(lda.xbar_)
        self.projection.zero_()  # components that a fit of low rank does not have
        self.projection[: len(scalings)] = scalings.to(self.projection)
        self.offset.copy_(-(self.projection.double() @ mean))
        inside = rows @ self.projection.T.to(rows) + self.offset.to(rows)
        members = torch.zeros_like(labels)
        self.centres.fill_(torch.inf)
        subclasses = self.centres.shape[1]
        for label in torch.unique(labels).tolist():
            own = labels == label
            count = min(subclasses, int(own.sum()))
            with quiet_clustering():
                found = KMeans(count, n_init=10, random_state=seed).fit(inside[own].numpy())
            self.centres[label, :count] = torch.from_numpy(found.cluster_centers_).to(self.centres)
            members[own] = label * subclasses + torch.from_numpy(found.labels_).long()
        self.decisions.copy_(functional.subclass_decisions(inside, members, self.size))


def learn_together(
    targets: Sequence[nn.Module],
    taps: Sequence[str],
    sizes: Sequence[Sequence[int]],
    data: DataBundle,
    ctx: Context,
    teacher: str | None,
    most: int,
) -> None:
    """Show the teacher the training set once, and fit every target on what was seen.

    Args:
        targets: ``Codewords`` and ``Subclasses``, one a tap.
        taps: the teacher's layers.
        sizes: spatial size of the student's layer for each; () for tokens and vectors.
        data: its training part is shown without augmentation.
        ctx: its ``teacher`` is asked; the first process fits, the others are told.
        teacher: name of the teacher.
        most: positions of each layer at most, drawn evenly over the samples.

    Raises:
        MethodError: what was seen cannot be clustered into so many words, or told apart by class.
    """
    if ctx.rank == 0:
        seen = _positions_seen(taps, sizes, data, ctx, teacher, most)
        for target, tap, (rows, labels) in zip(targets, taps, seen, strict=True):
            known = labels != IGNORE if target.needs_labels else torch.ones(len(rows)).bool()
            rows, labels = rows[known], labels[known]
            refuse_rows(target, tap, rows, labels)
            learn: Any = target.learn
            on_cpu = target.to("cpu")
            learn(rows, labels, ctx.seed % 2**31)
            on_cpu.to(ctx.device)
    for target in targets:
        for buffer in target.buffers():
            buffer.copy_(ctx.sum(buffer if ctx.rank == 0 else torch.zeros_like(buffer)))


def refuse_rows(target: nn.Module, tap: str, rows: Tensor, labels: Tensor) -> None:
    """Refuse rows ``[positions, channels]`` that a target cannot be fitted to, in one line."""
    where = f"teacher tap {tap!r}"
    if not bool(torch.isfinite(rows).all()):
        raise MethodError(f"{where}: its features of the training set are not all finite numbers")
    if isinstance(target, Codewords) and len(rows) < target.size:
        raise MethodError(
            f"method.codewords: expected at most {len(rows)}, one for each position of {where} "
            f"that was looked at, got {target.size}; set fewer, or more method.max_positions"
        )
    if not isinstance(target, Subclasses):
        return
    classes = len(torch.unique(labels))
    if len(rows) <= classes:
        raise MethodError(
            f"{where}: sub-classes need more labelled positions than classes, got {len(rows)} of "
            f"{classes} classes; give more labelled samples, or more method.max_positions"
        )
    if bool((rows == rows[0]).all()):
        raise MethodError(f"{where}: its features are the same at every position, of every sample")


def student_positions(feature: Tensor, size: Sequence[int]) -> Tensor:
    """Return a teacher's feature as ``[batch, channels, positions]`` at the student's positions.

    Maps of another size are average-pooled (or spread, where they are smaller).
    """
    if feature.ndim == 4 and tuple(feature.shape[2:]) != tuple(size):
        height, width = size
        feature = functional.average_pool(feature, size=(height, width))
    return as_positions(feature)


def _positions_seen(
    taps: Sequence[str],
    sizes: Sequence[Sequence[int]],
    data: DataBundle,
    ctx: Context,
    teacher: str | None,
    most: int,
) -> list[tuple[Tensor, Tensor]]:
    """Return rows ``[positions, channels]`` and the labels of their images, for each tap."""
    view = data.splits["train"]
    generator = torch.Generator().manual_seed(ctx.seed)
    rows: list[list[Tensor]] = [[] for _ in taps]
    labels: list[list[Tensor]] = [[] for _ in taps]
    shown = 0
    for batch in eval_batches(view, FIT_BATCH, data.augment_eval):
        said = ctx.teacher(batch.to(ctx.device), teacher, taps=taps).features
        for place, (tap, size) in enumerate(zip(taps, sizes, strict=True)):
            positions = student_positions(said[tap], size).detach().cpu()
            positions = positions.to(torch.promote_types(positions.dtype, torch.float32))
            each = positions.shape[2]
            flat = positions.mT.flatten(0, 1)
            chosen = torch.arange(len(flat))
            if most < len(view) * each:
                # what is rounded off is made up for later: all batches together give ``most``
                before, after = (most * count // len(view) for count in (shown, shown + len(batch)))
                chosen = torch.randperm(len(flat), generator=generator)[: after - before]
            rows[place].append(flat[chosen])
            owners = chosen // each
            labels[place].append(_labels(batch.targets, len(positions))[owners])
        shown += len(batch)
    return [(torch.cat(r), torch.cat(own)) for r, own in zip(rows, labels, strict=True)]


def _labels(targets: Tensor | None, count: int) -> Tensor:
    """Return class indices; of samples without one, and of other kinds of target, ``IGNORE``."""
    if targets is None or targets.is_floating_point() or targets.ndim != 1:
        return torch.full((count,), IGNORE)
    return targets.cpu()


@contextmanager
def quiet_clustering() -> Iterator[None]:
    """One thread, so that sums have one order; and no word on clusters that are less than asked."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
