"""Keep freed blocks in the process while a network trains, instead of mapping them again.

glibc maps large blocks (those from 32 MB up, at the latest) one by one and unmaps them when they
are freed: the next step then pays for each of their pages again, on photos up to a fifth of its
time. While a network trains the blocks are kept; afterwards all free memory goes back to the
system. With another C library this does nothing. GPU memory that torch holds in reserve is released
too, because other notebooks share the GPU.

Source: the manual pages mallopt(3) and malloc_trim(3).
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

# mallopt's parameters: free bytes at the end of the heap, and bytes of one block
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
MAX_KEPT_BLOCK = 2**30  # bytes; only larger blocks are still mapped
DEFAULT_KEPT_BLOCK = 2**25  # bytes; the largest block that glibc keeps by default


@contextmanager
def large_blocks_kept() -> Iterator[None]:
    """Reuse freed blocks inside the context and release them at its end; do not nest."""
    library = _glibc()
    if library is not None:
        library.mallopt(MMAP_THRESHOLD, MAX_KEPT_BLOCK)
        library.mallopt(TRIM_THRESHOLD, 2 * MAX_KEPT_BLOCK - 1)
    try:
        yield
    finally:
        if library is not None:
            library.mallopt(MMAP_THRESHOLD, DEFAULT_KEPT_BLOCK)
            library.mallopt(TRIM_THRESHOLD, 2 * DEFAULT_KEPT_BLOCK)
            library.malloc_trim(0)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


@cache
def _glibc() -> Any:
    """This process's C library if it is glibc, else None."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
