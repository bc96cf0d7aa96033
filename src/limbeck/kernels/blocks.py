"""Tensors walked over in blocks of rows, so that what lies between input and result stays small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor


def blocks(tensors: Sequence[Tensor], elements: int) -> Iterator[list[Tensor]]:
    """Yield all tensors as ``[rows, …]``, the same rows of each, about ``elements`` of the first.

    Nothing is copied: leading dimensions that cannot be seen as one (the logits of a sequence
    without its last position) are walked through one after the other. Blocks differ by one row at
    most, so that there is no small last one.

    Args:
        tensors: ``[*batch, last]``, the same batch, and a last dimension of their own.
        elements: how many a block of the first tensor may have; two rows are given at least.
    """
    flat = [_rows(tensor) for tensor in tensors]
    if any(rows is None for rows in flat):
        for index in range(tensors[0].shape[0]):
            yield from blocks([tensor[index] for tensor in tensors], elements)
        return
    whole = [rows for rows in flat if rows is not None]
    count = whole[0].shape[0]
    most = max(1, elements // max(1, whole[0].shape[1]))
    number = min(-(-count // most), max(1, count // 2))  # one row: another shape to a compiler
    for index in range(number):
        start, stop = count * index // number, count * (index + 1) // number
        # detached: a compiler tells a view of one tensor from that of another, and starts anew
        yield [rows[start:stop].detach() for rows in whole]


def _rows(tensor: Tensor) -> Tensor | None:
    """Return a view ``[rows, last]``, or None where only a copy could have that shape."""
    try:
        return tensor.view(-1, tensor.shape[-1])
    except RuntimeError:
        return None
