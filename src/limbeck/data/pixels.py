"""From the bytes of an image file to pixels: one decoder for every source of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import DataError, RecipeError, unknown

MODES = {"RGB": 3, "L": 1}


@dataclass(frozen=True)
class Decoder:
    """Decodes any image file that Pillow reads to uint8 pixels of one size.

    Palettes, grey and CMYK images become ``mode``; alpha is dropped; 16 bits become 8; the first
    picture of an animation counts; a camera's note on rotation is followed.

    Attributes:
        size: (height, width) that images are resized to (bilinear).
        mode: "RGB" or "L" (grey).
        same_size: whether an image of another size is refused instead of resized.
    """

    size: tuple[int, int]
    mode: str = "RGB"
    same_size: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image: (channels, height, width)."""
        return (MODES[self.mode], *self.size)

    @property
    def num_bytes(self) -> int:
        """Memory of one decoded image."""
        channels, height, width = self.shape
        return channels * height * width

    def __call__(self, content: bytes, name: Callable[[], str]) -> Tensor:
        """Return uint8 ``[channels, height, width]``.

        Args:
            content: of the image file.
            name: gives the image's name, for messages.

        Raises:
            DataError: naming the image, where it cannot be read or is of another size.
        """
        from PIL import Image

        image = _opened(content, name)
        if image.size[::-1] != self.size:
            if self.same_size:
                raise DataError(
                    f"{name()}: {image.height} x {image.width} pixels where the first image has "
                    f"{self.size[0]} x {self.size[1]}: say data.size= to resize all"
                )
            image = image.convert(self.mode).resize(self.size[::-1], Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image.convert(self.mode)))
        return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()


def decoder_for(
    size: int | Sequence[int] | None, mode: str, first: bytes, first_name: Callable[[], str]
) -> Decoder:
    """Return the decoder of a set of images.

    Args:
        size: side, or (height, width), in pixels; None: that of the first image, of all.
        mode: "RGB" or "L".
        first: content of the first image.
        first_name: gives its name, for messages.

    Raises:
        RecipeError: no such size or mode.
        DataError: the first image cannot be read, where its size is needed.
    """
    check_mode(mode)
    if size is not None:
        return Decoder(check_size(size), mode)
    image = _opened(first, first_name)
    return Decoder((image.height, image.width), mode, same_size=True)


def check_mode(mode: str) -> None:
    """Refuse what is no mode of ours."""
    if mode not in MODES:
        raise RecipeError(unknown("mode", mode, MODES))


def check_size(size: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width); RecipeError where these are no pixels."""
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise RecipeError(f"size: expected pixels, or (height, width) in pixels, got {size!r}")
    return sides[0], sides[1]


def _opened(content: bytes, name: Callable[[], str]) -> Any:
    """Return the whole picture, upright, in 8 bits a channel."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not content:
        raise DataError(f"{name()} cannot be read as an image: it is empty")
    try:
        image = Image.open(BytesIO(content))
        image.load()
        upright = ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{name()} cannot be read as an image: {reason}") from error
    if upright.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if upright.mode in ("I", "F"):
        raise DataError(f"{name()}: pixels of 32 bits; expected 8 or 16 bits a channel")
    # Pillow warns where a palette's transparency is dropped without this step
    return upright.convert("RGBA") if "transparency" in upright.info else upright
