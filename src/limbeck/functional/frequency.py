"""Frequency attention: a learned filter over all frequencies of a feature map."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from limbeck.functional._common import result_dtype


def frequency_attention(
    feature: Float[Tensor, "batch in_channels height width"],
    filters: Complex[Tensor, "in_channels out_channels height width"],
    *,
    low_cut: float = 0.1,
) -> Float[Tensor, "batch out_channels height width"]:
    """Filter a map in the frequency domain (Pham et al., WACV 2024): ``Re F⁻¹(H(W ⊙ F(x)))``.

    F is the orthonormal Fourier transform over positions; at each frequency, W mixes channels; H
    takes the lowest frequencies away, a centred square of half side ``int(low_cut · size // 2)``
    once frequency 0 is in the middle. It does nothing to maps of fewer than 20 positions a side
    with the authors' share of 0.1.

    Args:
        feature: ``[batch, in_channels, height, width]``.
        filters: complex, ``[in_channels, out_channels, height, width]``, in the order of the
            transform (frequency 0 first).
        low_cut: share of the frequencies that are taken away, in [0, 1).

    Returns:
        ``[batch, out_channels, height, width]``, in the precision of ``filters``' parts.

    Raises:
        ValueError: sizes differ, or ``low_cut`` is out of range.

    >>> ones = torch.ones(1, 1, 2, 2, dtype=torch.complex64)
    >>> frequency_attention(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), ones)
    tensor([[[[1., 2.],
              [3., 4.]]]])
    """
    if not 0 <= low_cut < 1:
        raise ValueError(f"low_cut is {low_cut}; expected a number in [0, 1)")
    read = (feature.shape[1], *feature.shape[2:])
    if read != (filters.shape[0], *filters.shape[2:]):
        raise ValueError(
            f"feature has shape {tuple(feature.shape)}, filters have shape {tuple(filters.shape)}; "
            "expected filters [in_channels, out_channels, height, width] of that feature"
        )
    spectrum = torch.fft.fft2(feature.to(result_dtype(feature)), norm="ortho")
    mixed = torch.einsum("bixy,ioxy->boxy", spectrum.to(filters.dtype), filters)
    kept = _high(feature.shape[2], feature.shape[3], low_cut, feature.device)
    if kept is not None:
        mixed = mixed * kept
    filtered: Tensor = torch.fft.ifft2(mixed, norm="ortho").real
    return filtered


def _high(height: int, width: int, low_cut: float, device: torch.device) -> Tensor | None:
    """1 where a frequency stays, in the order of the transform; None where all do."""
    middle = height // 2, width // 2
    half = tuple(int(low_cut * place) for place in middle)
    if 0 in half:
        return None
    kept = torch.ones(height, width, device=device)
    rows, columns = (slice(m - h, m + h) for m, h in zip(middle, half, strict=True))
    kept[rows, columns] = 0
    unshifted: Tensor = torch.fft.ifftshift(kept)
    return unshifted
