"""Log-mel spectrograms: sound as pictures of frequency over time."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

RATE = 8_000  # samples a second
WINDOW, HOP, FFT = 200, 80, 256  # 25 ms, 10 ms, and the window filled up to a power of 2
BANDS, FLOOR = 40, 1e-6
CHUNK = 512  # recordings at a time: the complex spectra of all would be large


def log_mel(waves: Tensor) -> Tensor:
    """Return the logarithms of the power in 40 mel bands, frame by frame.

    Frame t is ``samples[80 t : 80 t + 200]`` under a (periodic) Hann window. A band's power is
    the sum over the 129 frequencies of a 256-point Fourier transform of weight times
    ``|spectrum|²`` (``mel_bands``); to it 1e-6 is added, which is what silence has.

    Args:
        waves: ``[recordings, samples]`` at 8 kHz: int16, or floats in [-1, 1]; at least 200
            samples, of which those after the last whole frame are left out.

    Returns:
        float32 ``[recordings, 40, frames]``, frames = 1 + (samples - 200) // 80; lowest band first.
    """
    return torch.cat([_log_mel(part) for part in torch.split(waves, CHUNK)])


def num_samples(frames: int) -> int:
    """Return how many samples have so many frames."""
    return WINDOW + (frames - 1) * HOP


def _log_mel(waves: Tensor) -> Tensor:
    scale = 1.0 if waves.is_floating_point() else 1 / 32_768
    sides = (FFT - WINDOW) // 2  # torch puts the window in the middle of the transform
    spectrum = torch.stft(
        F.pad(waves.float() * scale, (sides, sides)),
        n_fft=FFT,
        hop_length=HOP,
        win_length=WINDOW,
        window=torch.hann_window(WINDOW),
        center=False,
        return_complex=True,
    )
    power = spectrum.real.square() + spectrum.imag.square()
    logarithms: Tensor = (mel_bands().float() @ power + FLOOR).log()
    return logarithms


@cache
def mel_bands() -> Tensor:
    """Return the weights of each band's triangle, float64 ``[40, 129]``.

    42 points lie evenly on HTK's mel scale, 2595 log10(1 + f / 700), from 0 to 4000 Hz; band b
    rises from point b to 1 at point b + 1 and falls to 0 at point b + 2, both straight in Hz.
    """
    highest = 2595 * math.log10(1 + RATE / 2 / 700)
    mels = torch.linspace(0, highest, BANDS + 2, dtype=torch.float64)
    points = 700 * (10 ** (mels / 2595) - 1)
    frequencies = torch.arange(FFT // 2 + 1, dtype=torch.float64) * RATE / FFT
    low, centre, high = points[:-2, None], points[1:-1, None], points[2:, None]
    rising = (frequencies - low) / (centre - low)
    falling = (high - frequencies) / (high - centre)
    return torch.minimum(rising, falling).clamp_(min=0)
