"""What every source of encoded images does once it knows where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from limbeck.data.bundle import DataBundle, bundle_from
from limbeck.data.encoded import Encoded, EncodedImages, held_or_read
from limbeck.data.normalize import Normalize
from limbeck.data.pixels import MODES, check_mode, check_size, decoder_for
from limbeck.data.sources.common import common_options, require
from limbeck.data.splits import Size
from limbeck.errors import DataError, RecipeError


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """How images become inputs: the options that all sources of images share.

    Attributes:
        size: side in pixels, or (height, width), that images are resized to; None: all have the
            same size already.
        mode: "RGB" or "L" (grey).
        mean: statistics of pixels in [0, 1], one a channel; None: (0.5, ...).
        std: likewise; None: (0.25, ...).
        memory: whether pixels are held in memory; None: where they take at most 2 GiB and half of
            what is free.
        num_workers: processes that decode ahead, for sets that are not held in memory.

    Raises:
        RecipeError: an unknown mode, a size that is none, or statistics of other channels.
        DataError: Pillow is not installed.
    """

    size: int | Sequence[int] | None = None
    mode: str = "RGB"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    memory: bool | None = None
    num_workers: int = 0

    def __post_init__(self) -> None:
        check_mode(self.mode)
        if self.size is not None:
            check_size(self.size)
        channels = MODES[self.mode]
        for key, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != channels:
                wanted = f"{channels} number{'s' if channels > 1 else ''} (mode {self.mode!r})"
                raise RecipeError(f"{key}: expected {wanted}, got {len(values)}")
        require("PIL", "Pillow", "vision")

    @property
    def normalization(self) -> Normalize:
        """The statistics, with their defaults."""
        channels = MODES[self.mode]
        return Normalize(
            tuple(self.mean or (0.5,) * channels), tuple(self.std or (0.25,) * channels)
        )


def bundle_of_pictures(
    parts: Mapping[str, tuple[Encoded, Tensor]],
    pictures: Pictures,
    *,
    test: Size,
    common: Mapping[str, Any],
    name: str,
    notes: Sequence[str] = (),
    **more: Any,
) -> DataBundle:
    """Make a DataBundle of encoded images.

    Args:
        parts: "train", and any of "validation", "test" and "unlabelled": files and targets.
        pictures: how they become inputs.
        test: number or share of samples for test where there is no such part.
        common: options of every data set, as the user gave them.
        name: for messages.
        notes: what was decided before.
        **more: task, class_names and so on: see ``bundle_from``.
    """
    normalization = pictures.normalization
    for part, (files, _) in parts.items():
        if len(files) == 0:
            raise DataError(f"the {part} data are empty: expected at least one sample")
    first = parts["train"][0]
    decoder = decoder_for(pictures.size, pictures.mode, first.read(0), lambda: first.name(0))
    encoded = {
        part: EncodedImages(files, targets, decoder, pictures.num_workers)
        for part, (files, targets) in parts.items()
    }
    ready, note = held_or_read(encoded, pictures.memory)
    options: dict[str, Any] = {**ready, **more, **common_options(common)}
    return bundle_from(
        normalization=normalization,
        test_size=None if "test" in parts else test,
        name=name,
        notes=(*notes, note),
        **options,
    )
