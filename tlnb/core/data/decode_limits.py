"""Limits on decoding, judged by an image's header, and interruptible threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from tlnb.core.runtime.limits import available_memory

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
R = TypeVar("R")

# a JPEG's marker before each scan; in a scan itself 0xFF is never followed by this
SCAN = b"\xff\xda"
MOST_SCANS = 100  # cameras and programs write about ten; each goes over the whole image
MOST_SCANNED = 1_500_000_000  # pixels × scans
# pixels: larger images are decoded one at a time, whatever the number of threads
LARGE = 20_000_000
PIXEL = 12  # bytes per pixel while decoding: as decoded, turned upright, in RGB
AT_ONCE = 8  # items in progress at a time
POLL = 0.2  # seconds between checks for an interrupt, on systems where waits cannot be interrupted

_large = Lock()


def why_costly(path: Path, image: Image) -> str:
    """Why an image of few pixels is still too costly, without decoding it; empty if it is not."""
    pixels = image.width * image.height
    if image.format in ("JPEG", "MPO"):
        scans = _scans(path)
        if scans > MOST_SCANS or scans * pixels > MOST_SCANNED:
            return (
                f"a JPEG of {pixels:,} pixels in {scans:,} scans takes too long to decode: "
                "save it again without so many scans"
            )
    return ""


def check_memory(image: Image) -> None:
    """Raise `MemoryError` if a large image, which may be sound, exceeds free memory."""
    pixels = image.width * image.height
    needed = pixels * PIXEL
    if pixels > LARGE and needed > available_memory():
        raise MemoryError(f"{pixels:,} pixels take {needed / 1e9:.1f} GB to decode")


def one_at_a_time(image: Image) -> AbstractContextManager[Any]:
    """A lock for a large image, so that threads do not hold several of them at once."""
    return _large if image.width * image.height > LARGE else nullcontext()


def _scans(path: Path) -> int:
    """Upper bound on a JPEG's scans: those of embedded previews count too."""
    with path.open("rb") as file:
        count, before = 0, b""
        while piece := file.read(2**20):
            count += (before + piece).count(SCAN)
            before = piece[-1:]
        return count


def in_threads(call: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Map `call` over `items` in order, in as many threads as torch uses, a few items ahead.

    An interrupt, or a caller that stops iterating, ends it at once: running calls finish, and no
    new ones start.
    """
    pool, over = ThreadPoolExecutor(max_workers=max(1, torch.get_num_threads())), Event()
    waiting: deque[Future[R]] = deque()
    left = iter(items)

    def unless_over(item: T) -> R:
        if over.is_set():
            raise RuntimeError("the caller stopped waiting")
        return call(item)

    try:
        while True:
            waiting += [
                pool.submit(unless_over, item) for item in islice(left, AT_ONCE - len(waiting))
            ]
            if not waiting:
                return
            yield _result(waiting.popleft())
    finally:
        over.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _result(future: Future[R]) -> R:
    while True:
        try:
            return future.result(POLL)
        except NotYet:
            if future.done():
                return future.result()
