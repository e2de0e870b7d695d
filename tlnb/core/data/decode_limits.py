"""What decoding an image may take: time and memory by what its header says, and threads that can be interrupted."""

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

SCAN = (
    b"\xff\xda"  # a JPEG's marker before each scan; in a scan itself 0xFF is never followed by this
)
MOST_SCANS = 100  # cameras and programs write about ten; each goes over the whole image
MOST_SCANNED = 1_500_000_000  # pixels times scans
LARGE = (
    20_000_000  # pixels: larger images are decoded one at a time, whatever the number of threads
)
PIXEL = 12  # bytes that a pixel takes on the way: as decoded, turned upright, in RGB
AT_ONCE = 8  # pieces of work that wait for each other's results
POLL = (
    0.2  # seconds after which waiting can be interrupted, on systems where it cannot be at any time
)

_large = Lock()


def why_costly(path: Path, image: Image) -> str:
    """Why an image is not decoded although it has few enough pixels; empty for others. Nothing is decoded."""
    pixels = image.width * image.height
    if image.format in ("JPEG", "MPO"):
        scans = _scans(path)
        if scans > MOST_SCANS or scans * pixels > MOST_SCANNED:
            return f"a JPEG of {pixels:,} pixels in {scans:,} scans takes too long to decode: save it anew"
    return ""


def check_memory(image: Image) -> None:
    """Raises `MemoryError` where a large image does not fit in the memory that there is now: that says nothing of the file."""
    pixels = image.width * image.height
    needed = pixels * PIXEL
    if pixels > LARGE and needed > available_memory():
        raise MemoryError(f"{pixels:,} pixels take {needed / 1e9:.1f} GB to decode")


def one_at_a_time(image: Image) -> AbstractContextManager[Any]:
    """A lock for a large image, so that threads do not hold several of them."""
    return _large if image.width * image.height > LARGE else nullcontext()


def _scans(path: Path) -> int:
    """How many scans a JPEG has at most: previews inside are counted too."""
    with path.open("rb") as file:
        count, before = 0, b""
        while piece := file.read(2**20):
            count += (before + piece).count(SCAN)
            before = piece[-1:]
        return count


def in_threads(call: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """What `call` makes of every item, in order, in as many threads as torch uses, some items ahead.

    An interrupt, or a caller that stops asking, ends it at once: what is under way in a thread ends by itself, and nothing
    else begins.
    """
    pool, over = ThreadPoolExecutor(max_workers=max(1, torch.get_num_threads())), Event()
    waiting: deque[Future[R]] = deque()
    left = iter(items)

    def unless_over(item: T) -> R:
        if over.is_set():
            raise RuntimeError("nobody waits for it")
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
