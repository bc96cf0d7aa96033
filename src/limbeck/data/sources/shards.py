"""WebDataset: samples in shards, which are plain tars."""

from __future__ import annotations

import glob
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from limbeck.data.batch import IGNORE
from limbeck.data.bundle import Common, DataBundle
from limbeck.data.registry import register_data
from limbeck.data.sources.classes import class_numbers
from limbeck.data.sources.pictures import Pictures, bundle_of_pictures
from limbeck.data.sources.tar_index import Sample, index_of
from limbeck.errors import DataError, RecipeError, nearest

PICKLED = {"pyd", "pickle", "pkl", "pth", "pt"}
_BRACES = re.compile(r"\{(?:(?P<first>\d+)\.\.(?P<last>\d+)|(?P<words>[^{}]*,[^{}]*))\}")


class ShardFiles:
    """The image files of samples in shards.

    Args:
        samples: in order.
        endings: of each sample's image.
    """

    def __init__(self, samples: Sequence[Sample], endings: Sequence[str]) -> None:
        self.samples, self.endings = list(samples), list(endings)

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index: int) -> str:
        """Return shard and key."""
        return f"{self.samples[index]}: .{self.endings[index]}"

    def read(self, index: int) -> bytes:
        """Return the image file's content; DataError where the shard is gone."""
        return self.samples[index].read(self.endings[index])


@register_data("webdataset")
def webdataset(
    *,
    path: str,
    validation_path: str | None = None,
    test_path: str | None = None,
    unlabelled_path: str | None = None,
    image: str = "jpg;jpeg;png;webp;ppm;pgm",
    label: str = "cls",
    class_names: Sequence[str] = (),
    size: int | Sequence[int] | None = None,
    mode: str = "RGB",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    test: float | int = 0.2,
    memory: bool | None = None,
    num_workers: int = 0,
    **common: Unpack[Common],
) -> DataBundle:
    """WebDataset shards: tars in which files of one name and different endings are one sample.

    The tars are indexed once, so that every sample has a number and can be read by itself: order,
    resuming and the teachers' cache work as for any other data. Pickled files (.pyd, .pth …) are
    never read. Needs Pillow; the shards must not be compressed.

    Args:
        path: the train shards: a file, a glob (``shards/train-*.tar``), or a range
            (``shards/train-{000000..000003}.tar``).
        validation_path: likewise; None: cut from train.
        test_path: likewise; None: cut from train.
        unlabelled_path: further train samples whose labels, if any, are not used.
        image: endings of the image, the first that a sample has counts.
        label: ending of the label: a file that holds a class's number or name; ``json.KEY`` for
            one entry of a JSON file.
        class_names: names of the classes in the order of their numbers; where labels are names,
            this is their order (else alphabetical).
        size: side in pixels, or (height, width), that images are resized to; None: they all have
            one size.
        mode: "RGB" or "L" (grey).
        mean: statistics of pixels in [0, 1], one a channel; None: (0.5, ...).
        std: likewise; None: (0.25, ...).
        test: number or share of samples for test where there are no such shards.
        memory: whether pixels are held in memory; None: where they take at most 2 GiB and half of
            what is free. What is not held is read and decoded as needed: the same bits, slower.
        num_workers: processes that read ahead, for sets that are not held in memory.
        **common: options of every data set.

    Raises:
        DataError: shards missing, damaged, cut short or empty; a sample without image or label:
            with shard and sample.
    """
    pictures = Pictures(
        size=size, mode=mode, mean=mean, std=std, memory=memory, num_workers=num_workers
    )
    wanted = [ending.strip().lstrip(".").lower() for ending in image.split(";")]
    for ending in (*wanted, label.lower()):
        if ending in PICKLED:
            raise RecipeError(f"files ending in .{ending} are pickled, and are never read")
    paths = {"train": path, "validation": validation_path, "test": test_path}
    samples = {part: _samples(where) for part, where in paths.items() if where is not None}
    labels = {
        part: [_label(sample, label.lower()) for sample in rows] for part, rows in samples.items()
    }
    names, targets = class_numbers(labels, class_names, lambda part, row: f"{samples[part][row]}")
    if unlabelled_path is not None:
        samples["unlabelled"] = _samples(unlabelled_path)
        targets["unlabelled"] = torch.full((len(samples["unlabelled"]),), IGNORE)
    parts: dict[str, tuple[ShardFiles, Tensor]] = {
        part: (ShardFiles(rows, [_ending(sample, wanted) for sample in rows]), targets[part])
        for part, rows in samples.items()
    }
    return bundle_of_pictures(
        parts,
        pictures,
        test=test,
        common=common,
        name="webdataset",
        notes=_notes(samples),
        task="classification",
        class_names=names,
    )


def shards_of(pattern: str) -> list[Path]:
    """Return the shards that a path, a glob or a range names, in order.

    Raises:
        DataError: there is none, or one of a range is missing.
    """
    expanded = _braces(str(Path(pattern).expanduser()))
    found: list[Path] = []
    for one in expanded:
        there = [one] if Path(one).is_file() else sorted(glob.glob(one))  # noqa: PTH207
        if not there:
            raise DataError(f"no shard {one}: expected tar files")
        found += map(Path, there)
    return found


def _braces(pattern: str) -> list[str]:
    """Write out ``{000..003}`` and ``{a,b}``."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    if match["words"] is not None:
        words = match["words"].split(",")
    else:
        first, last = match["first"], match["last"]
        if int(last) < int(first):
            raise RecipeError(
                f"path: the range {match[0]} is empty: write the smaller number first"
            )
        words = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [one for word in words for one in _braces(before + word + after)]


def _samples(pattern: str) -> list[Sample]:
    return [sample for shard in shards_of(pattern) for sample in index_of(shard)]


def _ending(sample: Sample, wanted: Sequence[str]) -> str:
    for ending in wanted:
        if ending in sample.files:
            return ending
    raise DataError(
        f"{sample} has no image ending in {' or '.join(f'.{one}' for one in wanted)}: "
        f"{_has(sample)} (data.image=)"
    )


def _has(sample: Sample) -> str:
    return f"it has {', '.join(f'.{one}' for one in sorted(sample.files))}"


def _label(sample: Sample, label: str) -> int | str:
    """Read a sample's label: a number or a name."""
    ending, _, key = label.partition(".") if label.startswith("json.") else (label, "", "")
    if ending not in sample.files:
        guess = nearest(ending, sample.files)
        hint = f"did you mean {guess!r}? " if guess else ""
        raise DataError(f"{sample} has no label ending in .{ending}: {hint}{_has(sample)}")
    content = sample.read(ending)
    try:
        value: Any = content.decode().strip()
        if key:
            value = json.loads(value)[key]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        reason = f"no entry {key!r}" if isinstance(error, KeyError) else "not readable as text"
        raise DataError(f"{sample}: label .{ending}: {reason}") from error
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise DataError(f"{sample}: label {value!r}; expected a class's number or name")
    return value


def _notes(samples: dict[str, list[Sample]]) -> list[str]:
    pickled = Counter(
        ending for rows in samples.values() for s in rows for ending in s.files if ending in PICKLED
    )
    shards = len({sample.shard for rows in samples.values() for sample in rows})
    notes = [f"{shards} shards" if shards > 1 else "1 shard"]
    return notes + [f"{n} pickled files (.{e}) are never read" for e, n in sorted(pickled.items())]
