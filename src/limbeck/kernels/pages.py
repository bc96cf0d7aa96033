"""Large pages for large new tensors: most of the time of a first write is the system's, by page.

On Linux, memory is given out in pages of 4 KiB when they are first written to; for a gradient of
100 MB these are 25,000 interruptions, and they cost more than the write. Where the system leaves
the choice to programs (``madvise``, the usual setting), 2 MiB are asked for. It is a hint: it
changes no value, and where it cannot be given nothing happens. torch does the same for all of its
tensors if ``THP_MEM_ALLOC_ENABLE=1`` is in the environment.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys
from collections.abc import Callable

import torch
from torch import Tensor

_LARGE = 2**22  # bytes; smaller blocks come from memory that has been written to before


def empty_like(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a new contiguous tensor of the same shape and device, not yet written to."""
    made = torch.empty(tensor.shape, dtype=dtype, device=tensor.device)
    size = made.nbytes
    if size < _LARGE or made.device.type != "cpu":
        return made
    advise = _advise()
    if advise is not None:
        start = -(-made.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (made.data_ptr() + size - start) // mmap.PAGESIZE * mmap.PAGESIZE
        advise(start, length, mmap.MADV_HUGEPAGE)
    return made


@functools.cache
def _advise() -> Callable[[int, int, int], int] | None:
    if sys.platform != "linux" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    try:
        advise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return advise
