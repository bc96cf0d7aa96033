"""B-cos layers: a linear map whose answer is scaled by how well input and weight align.

Böhle, Fritz and Schiele, "B-cos Networks: Alignment Is All We Need for Interpretability" (2022,
arXiv 2205.10268): with unit weights w and exponent B, an input x gives

    |cos(x, w)|^(B-1) * <w, x> .

A network of nothing else is, for each input, one linear map W(x) x. In :func:`explanation_mode` the
gradient of a logit is its row of W(x): scales count as constants. They are so in that gradient
alone; W(x) itself can be differentiated in full, scales and all, once the mode has ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import ModelError

_UNDER_ROOT = 1e-6  # of the patch norm, as in B-cos/B-cos-v2 (9a849c9)
_SMALLEST = 1e-12  # of the vector norm, likewise


class _Mode:
    """Whether gradients pass the scales by.

    One for the process: a pass may go through any wrapper, and CUDA's backward passes run in
    threads of their own.
    """

    explains: bool = False


@contextmanager
def explanation_mode() -> Iterator[None]:
    """Let gradients pass by the scales of all B-cos layers and norms while the context lasts.

    Both the pass and the gradient (``torch.autograd.grad``) belong inside; the gradient of a logit
    with respect to the encoded pixels is then its dynamic weights W(x). A loss on W(x), made with
    ``create_graph=True``, goes backward outside. Outputs do not change, and batch norms do not
    count what they see. It holds for the process, so not for two threads at once.
    """
    before, _Mode.explains = _Mode.explains, True
    try:
        yield
    finally:
        _Mode.explains = before


def _check_exponent(b: float) -> float:
    if not isinstance(b, int | float) or isinstance(b, bool) or not 1 <= b < float("inf"):
        raise ModelError(f"b must be a number of at least 1, got {b!r}")
    return float(b)


class _PassedBy(torch.autograd.Function):
    """A product whose first factor gets no gradient in explanation mode.

    Detaching it would do the same to the first derivative, and would cut the second.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(scale: Tensor, values: Tensor) -> Tensor:
        return scale * values

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        scale, values = ctx.saved_tensors
        by_scale = None if _Mode.explains else (gradient * values).sum_to_size(scale.shape)
        return by_scale, (gradient * scale).sum_to_size(values.shape)


def _scaled(scale: Tensor, values: Tensor) -> Tensor:
    """Return the product; outside of the mode an ordinary one, which compiles and exports."""
    if not _Mode.explains:
        return scale * values
    product: Tensor = _PassedBy.apply(scale, values)  # type: ignore[no-untyped-call]
    return product


def _aligned(linear: Tensor, norm: Tensor, b: float) -> Tensor:
    """Return ``|linear / norm|^(b-1) * linear``."""
    if b == 2:
        return _scaled(linear.abs() / norm, linear)
    return _scaled(((linear / norm).abs() + 1e-6).pow(b - 1), linear)


class BcosConv2d(nn.Module):
    """Convolution by unit kernels, each answer times |cos|^(B-1) of kernel and patch; no bias.

    Not an ``nn.Conv2d``, so that nothing takes it for a linear layer.

    Args:
        in_channels: channels in.
        out_channels: channels out.
        kernel_size: side of the square kernel.
        stride: step of the kernel.
        padding: zeros on each side.
        b: the exponent B, at least 1; 1 is a plain convolution by unit kernels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        b: float = 2.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.b = _check_exponent(b)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[batch, out_channels, height', width']``."""
        norms = torch.linalg.vector_norm(self.weight, dim=(1, 2, 3), keepdim=True)
        linear = F.conv2d(inputs, self.weight / norms, None, self.stride, self.padding)
        if self.b == 1:
            return linear
        energy = inputs.square().sum(dim=1, keepdim=True)
        mean = F.avg_pool2d(energy, self.kernel_size, self.stride, self.padding)
        return _aligned(linear, (mean * self.kernel_size**2 + _UNDER_ROOT).sqrt(), self.b)

    def extra_repr(self) -> str:
        """Return sizes and exponent."""
        out_channels, in_channels = self.weight.shape[:2]
        sizes = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        return f"{in_channels}, {out_channels}, {sizes}, b={self.b:g}"


class BcosLinear(nn.Module):
    """The same for vectors ``[..., in_features]``.

    Args:
        in_features: numbers in.
        out_features: numbers out.
        b: the exponent B, at least 1.
    """

    def __init__(self, in_features: int, out_features: int, *, b: float = 2.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.b = _check_exponent(b)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[..., out_features]``."""
        norms = torch.linalg.vector_norm(self.weight, dim=1, keepdim=True)
        linear = F.linear(inputs, self.weight / norms)
        if self.b == 1:
            return linear
        norm = torch.linalg.vector_norm(inputs, dim=-1, keepdim=True) + _SMALLEST
        return _aligned(linear, norm, self.b)

    def extra_repr(self) -> str:
        """Return sizes and exponent."""
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, b={self.b:g}"


class UncentredBatchNorm2d(nn.Module):
    """Batch norm that divides by the deviation and subtracts nothing, so that it stays linear.

    Args:
        channels: channels of the maps.
        momentum: share of a new batch in the running variance.
        eps: added to the variance.
    """

    running_var: Tensor

    def __init__(self, channels: int, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.momentum, self.eps = momentum, eps

    def forward(self, inputs: Tensor) -> Tensor:
        """Return maps of the same shape."""
        variance = self.running_var
        if self.training:
            variance = inputs.var(dim=(0, 2, 3), correction=0)
            if not _Mode.explains:
                with torch.no_grad():
                    self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
        scale = (variance + self.eps).rsqrt()[:, None, None]
        return _scaled(scale, inputs) * self.weight[:, None, None]


class Encode(nn.Module):
    """``[p, 1 - p]`` of pixels p in [0, 1]: black and white weigh the same.

    Args:
        mean: statistics that inputs were normalised by, which are undone: one number, or one a
            channel.
        std: likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[batch, 2 * channels, height, width]``."""
        pixels = inputs * self.std + self.mean
        return torch.cat([pixels, 1 - pixels], dim=1)
