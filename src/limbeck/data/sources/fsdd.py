"""Spoken digits: the Free Spoken Digit Dataset as log-mel spectrograms."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from limbeck.data.bundle import Common, DataBundle, bundle_from
from limbeck.data.normalize import Normalize
from limbeck.data.registry import register_data
from limbeck.data.samples import TensorSamples, hash_tensors
from limbeck.data.sources import mel
from limbeck.data.sources.common import common_options
from limbeck.data.sources.idx import DIGITS
from limbeck.data.sources.recordings import read_recordings
from limbeck.data.steps import Step, parse_steps
from limbeck.errors import DataError, RecipeError, unknown

CLASSES = ("digit", "digit-speaker")
TAKES = {"train": (10, 49), "validation": (5, 9), "test": (0, 4)}
WHOLE = 3_000  # recordings of the published set: 6 speakers, 10 digits, 50 takes


@register_data("fsdd")
def fsdd(
    *,
    root: str | None = None,
    classes: str = "digit",
    frames: int = 64,
    **common: Unpack[Common],
) -> DataBundle:
    """FSDD (Z. Jackson and others, CC BY-SA 4.0): digits spoken by six people, at 8 kHz.

    Of 3,000 recordings, takes 0 to 4 are test (300), as published; of the others, 5 to 9 are
    validation (300), the rest train (2,400). Inputs are log-mel spectrograms
    ``[1, 40, frames]`` (see ``log_mel``: 25 ms windows, every 10 ms) of the beginning of each
    recording, or of all of it and the silence after, standardised by the train part.
    ``groups`` are the speakers. Of the augmentations those that move pixels of images are
    refused. Nothing is fetched.

    Args:
        root: folder, or the folder above ``fsdd``, ``audio-fsdd`` or
            ``free-spoken-digit-dataset``, with the repository's ``recordings`` (wav files called
            digit_speaker_take.wav) or ``fsdd_8k_int16.npz``; None: $LIMBECK_DATA.
        classes: "digit" (10), or "digit-speaker" (60), whose ``superclasses`` are "digit" and
            "speaker".
        frames: of a spectrogram, at least 1; 64 are 0.66 s, longer than 19 of 20 recordings.
        **common: options of every data set; ``validation`` draws from the 300.

    Raises:
        DataError: files that are not there, are damaged, or are of another form.
        RecipeError: another word for ``classes``, no such ``frames``, or an augmentation that
            does not suit a spectrogram.
    """
    if classes not in CLASSES:
        raise RecipeError("data.classes: " + unknown("classes", classes, CLASSES))
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
        raise RecipeError(f"data.frames: expected a number of at least 1, got {frames!r}")
    _check_steps(common.get("augment", ()))
    heard = read_recordings(root, mel.num_samples(frames))
    rows = _rows_of_parts(heard.take)
    speakers, count = heard.speakers, len(heard.speakers)
    both = classes == "digit-speaker"
    targets = count * heard.digit + heard.speaker if both else heard.digit
    logarithms = {part: mel.log_mel(heard.waves[of])[:, None] for part, of in rows.items()}
    statistics = _statistics(logarithms["train"])
    parts = {
        part: Spectrograms(heard.waves[of], logarithms[part], targets[of], statistics)
        for part, of in rows.items()
    }
    pairs = torch.arange(10 * count)
    used = sum(len(part) for part in parts.values())
    return bundle_from(
        parts["train"],
        parts["validation"],
        parts["test"],
        task="classification",
        class_names=[f"{d} {who}" for d in DIGITS for who in speakers] if both else DIGITS,
        superclasses={"digit": pairs // count, "speaker": pairs % count} if both else {},
        groups={part: heard.speaker[of] for part, of in rows.items()},
        group_names=speakers,
        notes=_notes(statistics, used),
        name="fsdd",
        **common_options(common),
    )


class Spectrograms(TensorSamples):
    """Recordings held as standardised log-mel spectrograms, float32.

    Their identity is that of the recordings: the logarithms' last bits differ between machines.

    Args:
        waves: int16 ``[n, samples]``.
        logarithms: ``[n, 1, 40, frames]``: ``log_mel`` of these.
        targets: int64 ``[n]``.
        statistics: of the logarithms, which are no pixels in [0, 1]: networks and exported files
            are given (x - mean) / std.
    """

    def __init__(
        self, waves: Tensor, logarithms: Tensor, targets: Tensor, statistics: Normalize
    ) -> None:
        super().__init__(statistics(logarithms), targets)
        self.waves, self.statistics = waves, statistics

    def digest(self) -> str:
        """Return the sha256 of the recordings, the targets, and how inputs are made of them."""
        form = (mel.RATE, mel.WINDOW, mel.HOP, mel.FFT, mel.BANDS, mel.FLOOR)
        made = f"log-mel {form} {self.statistics}"
        content = hash_tensors(self.waves, self.targets)
        return hashlib.sha256(f"{made}|{content}".encode()).hexdigest()


def _rows_of_parts(take: Tensor) -> dict[str, Tensor]:
    """Return the positions of each part, which are whole takes."""
    rows = {}
    for part, (first, last) in TAKES.items():
        rows[part] = ((take >= first) & (take <= last)).nonzero()[:, 0]
        if not len(rows[part]):
            raise DataError(f"no recording of takes {first} to {last}, which are {part}")
    return rows


def _statistics(spectrograms: Tensor) -> Normalize:
    """Return mean and deviation over all of the training takes, whatever is drawn from them."""
    wide = spectrograms.double()
    mean, spread = round(float(wide.mean()), 4), round(float(wide.std()), 4)
    if spread == 0:
        raise DataError("all training recordings are silent")
    return Normalize((mean,), (spread,))


def _notes(statistics: Normalize, used: int) -> tuple[str, ...]:
    mean, spread = statistics.mean[0], statistics.std[0]
    told = f"log-mel power, standardised: mean {mean:.4f}, std {spread:.4f} in train"
    return (told,) if used == WHOLE else (told, f"{used:,} of {WHOLE:,} recordings")


def _check_steps(augment: Sequence[Step]) -> None:
    """Refuse what turns a sound into none: time runs one way, and 0 is not silence."""
    steps = parse_steps(augment)
    for name in ("crop", "flip", "rotate", "trim"):
        if getattr(steps, name):
            raise RecipeError(
                f"data.augment: {name!r} does not suit spectrograms; noise, cutout and mixup do"
            )
