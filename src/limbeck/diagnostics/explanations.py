"""Whether a student is right for its teacher's reasons: agreement, maps, pointing, groups."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data import DataBundle
from limbeck.data.batch import Batch
from limbeck.data.loader import eval_batches
from limbeck.errors import LimbeckError, ShapeError
from limbeck.functional.explanation import resized_maps
from limbeck.taps.explaining import Explainer, make_explainer
from limbeck.taps.outputs import Outputs
from limbeck.teachers import LiveTeacher


@dataclass(frozen=True)
class ExplanationFindings:
    """What :func:`compare_explanations` found; None where masks or groups were not given.

    Attributes:
        num_samples: samples looked at.
        agreement: share of samples on whose top class both networks agree.
        similarity: mean cosine of the two maps of the teacher's top class.
        student_energy: mean share of the positive energy of the student's maps that lies in the
            masks (energy pointing game); NaN where no map points anywhere.
        teacher_energy: the same of the teacher.
        accuracy: of the student.
        worst_group_accuracy: its accuracy on the group where it is least.
    """

    num_samples: int
    agreement: float
    similarity: float
    student_energy: float | None = None
    teacher_energy: float | None = None
    accuracy: float | None = None
    worst_group_accuracy: float | None = None


def compare_explanations(
    student: nn.Module,
    teacher: nn.Module,
    data: DataBundle,
    *,
    split: str = "test",
    explainer: str = "gradcam",
    tap: str | None = None,
    teacher_tap: str | None = None,
    masks: Tensor | None = None,
    groups: Tensor | None = None,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> ExplanationFindings:
    """Compare what student and teacher say, and why, on samples as evaluation shows them.

    Args:
        student: a network; given back in its modes.
        teacher: another; likewise.
        data: images with class labels.
        split: "train", "validation" or "test".
        explainer: "gradcam", "input_gradient" or "bcos".
        tap: where the student is explained; None: the explainer's own.
        teacher_tap: the same in the teacher; None: the student's.
        masks: where the object is, ``[samples, height, width]`` in the order of the split.
        groups: integers ``[samples]``, likewise: background and class, say.
        batch_size: samples at once.
        device: where to work.

    Raises:
        ShapeError: masks or groups of another number of samples.
        MethodError: an unknown explainer.
        LimbeckError: data that are not classification, or a split that is not there.
    """
    if data.task != "classification" or split not in data.splits:
        there = ", ".join(data.splits)
        raise LimbeckError(
            f"explanations: expected classification and one of the splits {there}, got {data.task} "
            f"and {split!r}"
        )
    view = data.splits[split]
    for name, rows in (("masks", masks), ("groups", groups)):
        if rows is not None and len(rows) != len(view):
            raise ShapeError(f"{name}: {len(rows)} for {len(view)} samples of {split!r}")
    ours = make_explainer(explainer, tap)
    theirs = make_explainer(explainer, teacher_tap or tap)
    device = torch.device(device)
    table = _Table()
    with _asked(student, data, device) as first, _asked(teacher, data, device) as second:
        start = 0
        for batch in eval_batches(view, batch_size, data.augment_eval):
            here = slice(start, start := start + len(batch))
            inside = None if masks is None else masks[here].to(device)
            table.add(batch.to(device), (first, ours), (second, theirs), inside)
    return table.findings(groups)


class _asked:
    """A network that can be asked while the context lasts."""

    def __init__(self, module: nn.Module, data: DataBundle, device: torch.device) -> None:
        self._teacher = LiveTeacher(module, name="explained")
        self._teacher.bind(data, device)

    def __enter__(self) -> LiveTeacher:
        return self._teacher

    def __exit__(self, *_: object) -> None:
        self._teacher.close()


class _Table:
    """One row a sample."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Tensor]] = {}

    def add(
        self,
        batch: Batch,
        student: tuple[LiveTeacher, Explainer],
        teacher: tuple[LiveTeacher, Explainer],
        masks: Tensor | None,
    ) -> None:
        """Explain the teacher's top class of each sample of a batch, to both networks."""
        said = [one.pass_over(partial(_ask, voice, batch)) for voice, one in (student, teacher)]
        top = said[1].logits.detach().argmax(dim=1)
        size = (batch.inputs.shape[-2], batch.inputs.shape[-1])
        maps = [
            _spatial(one.map(outputs, top, graph=False), size)
            for outputs, (_, one) in zip(said, (student, teacher), strict=True)
        ]
        guess = said[0].logits.detach().argmax(dim=1)
        self._note("agreement", guess == top)
        self._note("similarity", functional.explanation_similarity(*maps))
        if batch.targets is not None:
            self._note("accuracy", guess == batch.targets)
        if masks is not None:
            for name, one in zip(("student_energy", "teacher_energy"), maps, strict=True):
                self._note(name, functional.energy_pointing_game(one, masks))

    def _note(self, name: str, rows: Tensor) -> None:
        self.columns.setdefault(name, []).append(rows.detach().double().cpu())

    def findings(self, groups: Tensor | None) -> ExplanationFindings:
        """Return the means; a map that points nowhere does not count among the energies."""
        columns = {name: torch.cat(rows) for name, rows in self.columns.items()}
        means = {name: float(rows.nanmean()) for name, rows in columns.items()}
        worst = None
        if groups is not None and "accuracy" in columns:
            right = columns["accuracy"]
            worst = min(float(right[groups == g].mean()) for g in torch.unique(groups))
        count = len(columns["agreement"])
        return ExplanationFindings(num_samples=count, **means, worst_group_accuracy=worst)


def _ask(voice: LiveTeacher, batch: Batch, taps: tuple[str, ...]) -> Outputs:
    return voice.ask(batch, taps=taps, require_grad=True)


def _spatial(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps of images in their size."""
    return resized_maps(maps, size) if maps.ndim >= 3 else maps
