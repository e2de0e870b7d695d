"""Cache files of decoded images, for data that exceed memory, and reused when opened again.

A file holds an array `(N, 3, E, E)` uint8, the image file of each row, and the unreadable files
with reasons. Its name depends on the image files, the edge and the order of rows. `checked_arrays`
makes sure that files are complete. Nothing is kept about image files that could not be read for a
passing reason (an unresponsive disk, a missing permission): their rows are marked `NO_FILE`, and
the next to open the data tries them again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from tlnb.core.data.decoding import Passing, Values
from tlnb.core.runtime.errors import DataError
from tlnb.core.runtime.limits import cache_folder, disk_budget
from tlnb.core.storage import checked_arrays
from tlnb.core.storage.memory_map import map_file

VERSION = 4  # of the decoding; files written by another version are ignored
NO_FILE = -1  # the file number of an empty row, to be tried again
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))

Unreadable = dict[int, str]  # an image file's number → why it cannot be read


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Images, and the files they were decoded from."""

    images: Tensor  # (N, 3, E, E) uint8; rows of unreadable files are meaningless
    order: np.ndarray  # (N,): the file number of each row
    unreadable: Unreadable


@dataclass(frozen=True)
class ImageCache:
    """The cache files of one list of image files at one edge."""

    folder: Path
    key: str

    def find(self, order: np.ndarray, just_this: bool = False) -> Decoded | None:
        """Find a sound cache file with the rows in this order.

        Unless `just_this`, any other order will do, too; None if there is no sound file.
        """
        exact = self._file(order)
        others = () if just_this else sorted(self.folder.glob(f"{self.key}-*.npy"))
        for file in (exact, *(f for f in others if f != exact)):
            decoded = _read(file)
            if decoded is not None:
                return decoded
        return None

    def write(
        self, order: np.ndarray, edge: int, rows: Iterable[Tensor], unreadable: Unreadable
    ) -> Decoded:
        """Write a file and map it.

        Args:
            order: the number of each row's image file.
            rows: the images `(3, edge, edge)`, consumed one by one.
            unreadable: read after all rows are consumed.

        Raises:
            DataError: the disk is full, the budget is too small, or the folder cannot be written.
        """
        file, shape = self._file(order), (len(order), 3, edge, edge)
        size, budget = math.prod(shape), disk_budget(self.folder)
        if size > budget:
            raise DataError(
                f"the decoded images take {_gb(size)} of disk, and {_gb(budget)} are allowed: "
                f"set TLNB_DISK={size // 10**9 + 1}GB, or give a smaller --size"
            )
        try:
            checked_arrays.make_room(self.folder, size)
            parts, about = (row[None].numpy() for row in rows), partial(_about, order, unreadable)
            checked_arrays.write(file, shape, np.dtype(np.uint8), parts, about)
            images = map_file(self._set_apart(file, order, unreadable))
            return Decoded(images=images, order=order, unreadable=unreadable)
        except OSError as error:
            raise DataError(_why(error, self.folder, size)) from None

    def _set_apart(self, file: Path, order: np.ndarray, unreadable: Unreadable) -> Path:
        """Name a file that lacks some images after what it holds; the whole one takes its place."""
        lasting = _lasting(order, unreadable)
        if not np.array_equal(lasting, order):
            with suppress(OSError):  # Windows cannot replace mapped files; NO_FILE rows tell
                return file.replace(self._file(lasting))
        return file

    def _file(self, order: np.ndarray) -> Path:
        return self.folder / f"{self.key}-{_hash(order.astype('<i8').tobytes())}.npy"


def _about(order: np.ndarray, unreadable: Unreadable) -> dict[str, object]:
    lasting = [item for item in unreadable.items() if not isinstance(item[1], Passing)]
    return {"order": _lasting(order, unreadable).tolist(), "unreadable": sorted(lasting)}


def _lasting(order: np.ndarray, unreadable: Unreadable) -> np.ndarray:
    """The order with `NO_FILE` for the files that could not be read for a passing reason."""
    passing = [number for number, why in unreadable.items() if isinstance(why, Passing)]
    return np.where(np.isin(order, passing), NO_FILE, order)


def image_cache(paths: Sequence[Path], edge: int, values: Values | None = None) -> ImageCache:
    """The cache of these files, by their paths, sizes and times, the edge and the values' scale."""
    states = [(str(path.absolute()), *_state(path)) for path in paths]
    key = _hash(json.dumps([VERSION, edge, values, states]).encode())
    return ImageCache(cache_folder() / "images", key)


def _state(path: Path) -> tuple[int, int, int]:
    try:
        stat = path.stat()
    except OSError:  # unreadable, which is reported when it is decoded
        return -1, 0, 0
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns  # ctime cannot be set back


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


# ── one file ──────────────────────────────────────────────────────────────────────────────────────


def _read(file: Path) -> Decoded | None:
    about = checked_arrays.read(file)
    if about is None:
        return None
    try:
        order, unreadable = np.array(about["order"]), dict(about["unreadable"])
        return Decoded(images=map_file(file), order=order, unreadable=unreadable)
    # removed meanwhile, no memory to map it, or another version's
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _why(error: OSError, folder: Path, size: int) -> str:
    if error.errno in DISK_FULL:
        return (
            f"no room for {_gb(size)} of decoded images in {folder}: free some, set TLNB_CACHE to "
            "a folder on a larger disk, or give a smaller --size"
        )
    return (
        f"{folder} cannot be written ({error.strerror}): set TLNB_CACHE to a folder that you can "
        "write to"
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:,.2f} GB"
