"""Whether a student is right for its teacher's reasons: agreement, maps, pointing, groups."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data import DataBundle
from limbeck.data.batch import Batch, has_label
from limbeck.data.loader import eval_batches
from limbeck.diagnostics.findings import ExplanationFindings, gather
from limbeck.errors import LimbeckError, MethodError, ShapeError, TapError, TeacherError
from limbeck.functional.explanation import resized_maps
from limbeck.taps.explaining import Explainer, make_explainer
from limbeck.taps.outputs import Outputs
from limbeck.teachers import CachedTeacher, LiveTeacher, Teacher


def compare_explanations(
    student: nn.Module,
    teacher: nn.Module | Teacher,
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
        teacher: another, or a Teacher with one; likewise.
        data: images with class labels.
        split: "train", "validation" or "test".
        explainer: "gradcam", "input_gradient" or "bcos".
        tap: where the student is explained; None: the explainer's own.
        teacher_tap: the same in the teacher; None: the student's.
        masks: where the object is, ``[samples, height, width]`` in the order of the split; None:
            those of the data, where they have some.
        groups: integers ``[samples]``, likewise: background and class, say.
        batch_size: samples at once.
        device: where to work.

    Raises:
        ShapeError: masks or groups of another number of samples, or masks of another size.
        MethodError: an unknown explainer, or one that a network has no layer for.
        TeacherError: a teacher that gives no gradients.
        LimbeckError: data that are not classification, inputs by name, or a split that is not
            there.
    """
    if data.task != "classification" or split not in data.splits:
        there = ", ".join(data.splits)
        raise LimbeckError(
            f"explanations: expected classification and one of the splits {there}, got {data.task} "
            f"and {split!r}"
        )
    view = data.splits[split]
    masks = data.masks.get(split) if masks is None else masks
    groups = data.groups.get(split) if groups is None else groups
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
            _check_inputs(batch, masks)
            here = slice(start, start := start + len(batch))
            inside = None if masks is None else masks[here].to(device)
            table.add(batch.to(device), (first, ours), (second, theirs), inside)
    return gather(
        table.joined(),
        view.targets,
        groups,
        class_names=data.class_names,
        group_names=data.group_names,
        split=split,
        explainer=explainer,
    )


@contextmanager
def _asked(
    network: nn.Module | Teacher, data: DataBundle, device: torch.device
) -> Iterator[Teacher]:
    """Let a network be asked while the context lasts; of a cache, the one that it is around."""
    voice = network if isinstance(network, Teacher) else LiveTeacher(network, name="explained")
    if isinstance(voice, CachedTeacher):
        voice = voice.inner
    if voice.module is None or not voice.gives_gradients or not voice.can_give("features"):
        raise TeacherError(
            f"teachers.{voice.name}: gives no gradients, which explanations are made of; give a "
            "single network as teacher (--teacher)"
        )
    voice.bind(data, device)
    try:
        yield voice
    finally:
        voice.close()


def _check_inputs(batch: Batch, masks: Tensor | None) -> None:
    if not isinstance(batch.inputs, Tensor) or not batch.inputs.is_floating_point():
        raise LimbeckError("explanations: need inputs that are one tensor of real numbers: images")
    size = list(batch.inputs.shape[2:])
    if masks is not None and list(masks.shape[1:]) != size:
        raise ShapeError(f"masks: of size {list(masks.shape[1:])}, the inputs are of size {size}")


class _Table:
    """One row a sample."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Tensor]] = {}

    def add(
        self,
        batch: Batch,
        student: tuple[Teacher, Explainer],
        teacher: tuple[Teacher, Explainer],
        masks: Tensor | None,
    ) -> None:
        """Explain the teacher's top class of each sample of a batch, to both networks."""
        pair = (student, teacher)
        said = [_pass(who, *one, batch) for who, one in zip(_WHO, pair, strict=True)]
        guesses = [outputs.logits.detach().argmax(dim=1) for outputs in said]
        size = (batch.inputs.shape[-2], batch.inputs.shape[-1])
        maps = []
        for who, outputs, (_, one) in zip(_WHO, said, pair, strict=True):
            with _fitting(f"{one.kind}, {who}"):
                maps.append(_spatial(one.map(outputs, guesses[1], graph=False), size))
        with _fitting(student[1].kind):
            self._note("similarity", functional.explanation_similarity(*maps))
        self._note("agreement", guesses[0] == guesses[1])
        for key, guess in zip(("accuracy", "teacher_accuracy"), guesses, strict=True):
            assert batch.targets is not None
            right = (guess == batch.targets).double()
            self._note(key, torch.where(has_label(batch.targets), right, torch.nan))
        if masks is not None:
            for who, found in zip(_WHO, maps, strict=True):
                self._note(f"{who}_energy", functional.energy_pointing_game(found, masks))

    def _note(self, key: str, rows: Tensor) -> None:
        self.columns.setdefault(key, []).append(rows.detach().double().cpu())

    def joined(self) -> dict[str, Tensor]:
        """Return the columns, float64 ``[samples]``."""
        return {key: torch.cat(rows) for key, rows in self.columns.items()}


_WHO = ("student", "teacher")


def _pass(who: str, voice: Teacher, explainer: Explainer, batch: Batch) -> Outputs:
    with _fitting(f"{explainer.kind}, {who}"):
        return explainer.pass_over(partial(_ask, voice, batch))


@contextmanager
def _fitting(what: str) -> Iterator[None]:
    """Say what to do where a network has no layer that an explainer can read."""
    try:
        yield
    except (TapError, ValueError) as error:
        if isinstance(error, LimbeckError) and not isinstance(error, TapError):
            raise
        hint = "" if "input_gradient" in what else "; input_gradient explains any network"
        raise MethodError(f"explainer {what}: {error}{hint}") from error


def _ask(voice: Teacher, batch: Batch, taps: tuple[str, ...]) -> Outputs:
    return voice.ask(batch, taps=taps, require_grad=True)


def _spatial(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps of images in their size."""
    return resized_maps(maps, size) if maps.ndim >= 3 else maps
