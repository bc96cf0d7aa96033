"""Rows of small whole numbers, packed to as many bits as they need and found again by row."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def bits_for(count: int) -> int:
    """Return the bits that tell ``count`` things apart.

    >>> bits_for(151_936), bits_for(1)
    (18, 0)
    """
    return (count - 1).bit_length()


def bytes_of(lengths: Array, width: int) -> Array:
    """Return the bytes of each packed row: rows begin at whole bytes."""
    return (lengths.astype(np.int64) * width + 7) // 8


def pack(codes: Array, lengths: Array, width: int) -> Array:
    """Pack the first ``lengths[i]`` numbers of row i, ``width`` bits each, row after row.

    Args:
        codes: int64 ``[rows, places]``, each in [0, 2**width).
        lengths: ``[rows]``: how many of a row's numbers count.
        width: bits of a number, up to 62.

    Returns:
        uint8, flat.
    """
    rows, places = codes.shape
    bits = (codes[:, :, None] >> np.arange(width)) & 1
    whole = np.packbits(bits.reshape(rows, places * width).astype(np.uint8), 1, bitorder="little")
    inside = np.arange(whole.shape[1]) < bytes_of(lengths, width)[:, None]
    packed: Array = whole[inside]
    return packed


def unpack(packed: Array, starts: Array, lengths: Array, width: int) -> Array:
    """Return int64 ``[rows, longest]`` of the rows that begin at ``starts``; 0 beyond a length."""
    longest = int(lengths.max(initial=0))
    size = (longest * width + 7) // 8
    if not size:
        return np.zeros((len(lengths), longest), np.int64)
    places = np.minimum(starts[:, None] + np.arange(size), len(packed) - 1)
    bits = np.unpackbits(packed[places], axis=1, bitorder="little")[:, : longest * width]
    codes = bits.reshape(len(lengths), longest, width).astype(np.int64) @ (1 << np.arange(width))
    found: Array = np.where(np.arange(longest) < lengths[:, None], codes, 0)
    return found
