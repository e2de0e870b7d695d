"""Memory of large tensors, which the C library would fetch from the system anew at every step.

glibc maps large blocks (at most from 32 MB on) one by one, and unmaps them when they are freed: the next step then pays for
each of their pages again, which on photos is up to a fifth of its time. While a network trains they are kept, and
afterwards all that is free goes back to the system. Where the C library is another one nothing is done. What torch holds of
a GPU's memory for later goes back too: other notebooks share it.

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

TRIM_THRESHOLD, MMAP_THRESHOLD = (
    -1,
    -3,
)  # mallopt's numbers: of bytes free at the end, and of bytes of one block
KEPT = 2**30  # bytes: only blocks larger than that are still mapped
USUAL = 2**25  # bytes: the largest block that glibc would keep by itself


@contextmanager
def large_blocks_kept() -> Iterator[None]:
    """Keep what is freed for what is needed next; at the end give it back. Not to be nested."""
    library = _glibc()
    if library is not None:
        library.mallopt(MMAP_THRESHOLD, KEPT)
        library.mallopt(TRIM_THRESHOLD, 2 * KEPT - 1)
    try:
        yield
    finally:
        if library is not None:
            library.mallopt(MMAP_THRESHOLD, USUAL)
            library.mallopt(TRIM_THRESHOLD, 2 * USUAL)
            library.malloc_trim(0)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


@cache
def _glibc() -> Any:
    """The C library of this process where it is glibc, else None."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
