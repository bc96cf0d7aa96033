"""Images in the size that a teacher reads, where it can read no other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import TeacherError
from limbeck.models.calling import call_model, evaluating
from limbeck.models.pretrained_config import expected_size

Size = tuple[int, int]


class InputSize:
    """Resizes images for a network that cannot read those of the data.

    A vision transformer made for 224x224 fails on 32x32; its knowledge is that of large images, so
    it is shown large ones (bilinear, antialiased). A network that reads the data's size is left to
    it, whatever it was made for.

    Args:
        module: the network; the size it was made for is read off its configuration.
        name: the teacher's name, for messages.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        self._own = expected_size(module)
        self._name = name
        self._from: Size | None = None
        self.target: Size | None = None

    def decide(self, module: nn.Module, inputs: Any) -> None:
        """Try the network on one sample; where that fails at this size, and its own works, resize.

        Args:
            module: the network, as it is asked.
            inputs: some samples as the data have them, statistics moved already.
        """
        self.target = None
        if self._own is None or not _are_images(inputs):
            return
        size = (inputs.shape[2], inputs.shape[3])
        if size == self._own or _reads(module, inputs[:1]):
            return
        self._from = size
        if _reads(module, _resized(inputs[:1], self._own)):
            self.target = self._own

    def __call__(self, inputs: Any) -> Any:
        """Return the inputs in the teacher's size; raises TeacherError where they are no images."""
        if self.target is None:
            return inputs
        if not _are_images(inputs):
            raise TeacherError(
                f"teachers.{self._name}: reads images of {_words(self.target)}, got "
                f"{type(inputs).__name__}"
            )
        return inputs if tuple(inputs.shape[2:]) == self.target else _resized(inputs, self.target)

    def key(self) -> str:
        """Return what a fingerprint must know; "" where nothing is resized."""
        return "" if self.target is None else _words(self.target)

    def describe(self) -> str:
        """Return in words what is done; "" for nothing."""
        if self.target is None or self._from is None:
            return ""
        return (
            f"inputs resized from {_words(self._from)} to {_words(self.target)} (it reads no other "
            "size; bilinear, antialiased)"
        )


def _are_images(inputs: Any) -> bool:
    return isinstance(inputs, Tensor) and inputs.dim() == 4 and inputs.is_floating_point()


def _resized(images: Tensor, size: Size) -> Tensor:
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def _reads(module: nn.Module, images: Tensor) -> bool:
    parameter = next((p for p in module.parameters() if p.is_floating_point()), None)
    if parameter is not None:
        images = images.to(device=parameter.device, dtype=parameter.dtype)
    try:
        with torch.random.fork_rng(devices=[]), evaluating(module):
            call_model(module, images)
    except Exception:  # whatever a stranger's forward raises; ``bind`` tries again and tells
        return False
    return True


def _words(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
