"""The files of the Free Spoken Digit Dataset: a folder of wav files, or all of them in one npz."""

from __future__ import annotations

import re
import wave
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from limbeck.data.sources.files import roots
from limbeck.data.sources.mel import RATE
from limbeck.errors import DataError

FOLDERS = ("", "fsdd", "audio-fsdd", "free-spoken-digit-dataset")
ARCHIVE, RECORDINGS = "fsdd_8k_int16.npz", "recordings"
NAME = re.compile(r"([0-9])_([A-Za-z]+)_([0-9]+)\.wav")


@dataclass(frozen=True, eq=False)
class Recordings:
    """Recordings in the order of digit, speaker and take, whatever files they came from.

    Attributes:
        waves: int16 ``[recordings, samples]``, cut off or followed by silence.
        digit: int64 ``[recordings]``, 0 to 9.
        speaker: int64 ``[recordings]``, numbers into ``speakers``.
        take: int64 ``[recordings]``, from 0.
        speakers: names, in the order of the alphabet.
    """

    waves: Tensor
    digit: Tensor
    speaker: Tensor
    take: Tensor
    speakers: tuple[str, ...]


def read_recordings(root: str | Path | None, samples: int) -> Recordings:
    """Return all recordings, of so many samples each.

    Args:
        root: folder with the npz file or the folder ``recordings``, or above one of ``FOLDERS``
            that has; None: $LIMBECK_DATA.
        samples: of each recording: longer ones are cut off, shorter ones followed by silence.

    Raises:
        DataError: no files, or one that is damaged or no mono sound of 8 kHz and 16 bits.
    """
    places = [start / sub for start in roots(root) for sub in FOLDERS]
    for place in places:
        if (place / ARCHIVE).is_file():
            return _in_order(_from_archive(place / ARCHIVE), samples)
        files = sorted((place / RECORDINGS).glob("*.wav"))
        if files:
            return _in_order([_from_wav(file) for file in files], samples)
    looked = ", ".join(str(place) for place in places) or "no folder"
    raise DataError(
        f"{RECORDINGS}/*.wav or {ARCHIVE} not found (looked in {looked}): pass data.root=FOLDER, "
        "or set LIMBECK_DATA"
    )


Row = tuple[int, str, int, Any]
"""Digit, speaker, take and the samples, int16 ``[n]``."""


def _in_order(rows: list[Row], samples: int) -> Recordings:
    rows = sorted(rows, key=lambda row: row[:3])
    speakers = sorted({speaker for _, speaker, _, _ in rows})
    waves = np.zeros((len(rows), samples), np.int16)
    for place, (*_, sound) in enumerate(rows):
        waves[place, : len(sound)] = sound[:samples]
    return Recordings(
        waves=torch.from_numpy(waves),
        digit=torch.tensor([digit for digit, *_ in rows]),
        speaker=torch.tensor([speakers.index(speaker) for _, speaker, _, _ in rows]),
        take=torch.tensor([take for _, _, take, _ in rows]),
        speakers=tuple(speakers),
    )


def _from_wav(path: Path) -> Row:
    named = NAME.fullmatch(path.name)
    if named is None:
        raise DataError(f"{path}: expected a name like 7_jackson_32.wav (digit, speaker, take)")
    try:
        with wave.open(str(path), "rb") as sound:
            rate, channels, width = sound.getframerate(), sound.getnchannels(), sound.getsampwidth()
            count = sound.getnframes()
            content = sound.readframes(count)
    except (OSError, EOFError, wave.Error) as error:
        reason = str(error) or "it is cut short"
        raise DataError(f"{path} cannot be read as a wav file: {reason}") from error
    if (rate, channels, width) != (RATE, 1, 2):
        raise DataError(
            f"{path}: {rate} Hz, {channels} channel{'' if channels == 1 else 's'}, {8 * width} "
            f"bits; expected {RATE} Hz, 1 channel, 16 bits"
        )
    if len(content) != 2 * count:
        raise DataError(f"{path} cannot be read as a wav file: it is cut short")
    digit, speaker, take = named.groups()
    return int(digit), speaker, int(take), np.frombuffer(content, "<i2")


def _from_archive(path: Path) -> list[Row]:
    """Read the npz file: ``wav`` holds recording i from ``offsets[i]`` to ``offsets[i + 1]``."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            sound, offsets, names = (archive[key] for key in ("wav", "offsets", "speakers"))
            digit, speaker, take = (archive[key] for key in ("digit", "speaker", "take"))
            rate = int(archive["sample_rate"])
    except KeyError as error:
        raise DataError(f"{path}: {error.args[0]}") from error
    except (OSError, EOFError, ValueError, TypeError, BadZipFile, zlib.error) as error:
        line = " ".join(str(error).split())
        raise DataError(f"{path} is damaged or unreadable: {line}") from error
    if rate != RATE or sound.dtype != np.int16:
        raise DataError(f"{path}: {rate} Hz, {sound.dtype}; expected {RATE} Hz, int16")
    whole = all(one.ndim == 1 and one.dtype.kind in "iu" for one in (offsets, digit, speaker, take))
    if not whole or sound.ndim != 1 or not len(offsets):
        raise DataError(
            f"{path}: expected wav, offsets, digit, speaker and take as rows of integers"
        )
    pieces = np.split(sound, offsets[1:-1])
    fit = (
        len(digit) == len(speaker) == len(take) == len(pieces) == len(offsets) - 1
        and offsets[0] == 0
        and offsets[-1] == len(sound)
        and bool((np.diff(offsets) >= 0).all())
        and set(digit.tolist()) <= set(range(10))
        and set(speaker.tolist()) <= set(range(len(names)))
    )
    if not fit:
        raise DataError(f"{path}: wav, offsets, digit, speaker and take do not fit each other")
    who = [str(names[number]) for number in speaker.tolist()]
    return list(zip(digit.tolist(), who, take.tolist(), pieces, strict=True))
