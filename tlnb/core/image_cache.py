"""Decoded images in files: for data that do not fit in memory, and found again when the same files are opened again.

A cache file is a `.npy` array (N, 3, E, E) uint8, which is mapped, followed by a line of JSON: which image file each
row was decoded from, which could not be read and why, and a hash. Its name says which files, at which edge, in which
order of rows. Files appear whole or not at all, and the least recently used go when the folder is over its budget.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from tlnb.core.errors import DataError
from tlnb.core.memory import cache_folder, disk_budget
from tlnb.core.stream import map_file

VERSION = 2  # of how files are decoded: what another version decoded is not found again
PIECE = 2**25  # bytes that are hashed at a time, in as many threads as torch uses
LEFTOVER = 3600  # seconds after which an unfinished file belongs to nobody
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))

Unreadable = dict[int, str]  # an image file's number → why it cannot be read


@dataclass(frozen=True)
class Decoded:
    """Images, and which files they are of."""

    images: Tensor  # (N, 3, E, E) uint8; rows of unreadable files hold nothing of use
    order: np.ndarray  # (N,): the number of each row's file
    unreadable: Unreadable


@dataclass(frozen=True)
class ImageCache:
    """The cache files of one list of image files at one edge."""

    folder: Path
    key: str

    def find(self, order: np.ndarray, just_this: bool = False) -> Decoded | None:
        """The file with the rows in this order, or unless `just_this` in any other. Damaged ones are removed."""
        exact = self._file(order)
        others = () if just_this else sorted(self.folder.glob(f"{self.key}-*.npy"))
        for file in (exact, *(f for f in others if f != exact)):
            found = _read(file)
            if found is not None:
                return found
        return None

    def write(self, order: np.ndarray, edge: int, rows: Iterable[Tensor], unreadable: Unreadable) -> Decoded:
        """Write a file and map it.

        Args:
            order: the number of each row's image file.
            rows: the images `(3, edge, edge)`, taken one by one.
            unreadable: read when the rows are through.

        Raises:
            DataError: the disk is full, the budget too small, or the folder cannot be written.
        """
        file, shape = self._file(order), (len(order), 3, edge, edge)
        unfinished = file.with_name(f"{file.name}.{os.getpid()}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            _make_room(file.parent, int(np.prod(shape)))
            with unfinished.open("w+b") as out:
                _write(out, shape, rows, order, unreadable)
            unfinished.replace(file)
        except OSError as error:
            raise DataError(_why(error, file.parent, int(np.prod(shape)))) from None
        finally:
            _remove(unfinished)
        return Decoded(map_file(file), order, unreadable)

    def _file(self, order: np.ndarray) -> Path:
        return self.folder / f"{self.key}-{_hash(order.astype('<i8').tobytes())}.npy"


def image_cache(paths: Sequence[Path], edge: int) -> ImageCache:
    """The cache of these files as they are now: of their paths, sizes and times, at an edge in pixels."""
    states = [(str(path.absolute()), *_state(path)) for path in paths]
    return ImageCache(cache_folder() / "images", _hash(json.dumps([VERSION, edge, states]).encode()))


def _state(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:  # it cannot be read, which is said when it is decoded
        return -1, 0
    return stat.st_size, stat.st_mtime_ns


# ── one file ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _write(
    out: BinaryIO, shape: tuple[int, ...], rows: Iterable[Tensor], order: np.ndarray, unreadable: Unreadable
) -> None:
    np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})
    for row in rows:
        _append(out, row.numpy().data)
    out.flush()
    about = {"order": order.tolist(), "unreadable": sorted(unreadable.items())}
    _append(out, json.dumps({**about, "hash": _checked(out, out.tell(), about)}).encode())


def _append(out: BinaryIO, data: bytes | memoryview) -> None:
    """Ordinary writing, not through a mapping: there a full disk would end the process, not raise an error."""
    out.write(data)


def _read(file: Path) -> Decoded | None:
    """A file's images; None where it is missing, and removed where it is damaged."""
    if not file.exists():
        return None
    try:
        with file.open("rb") as opened:
            np.lib.format.read_magic(opened)
            shape, _, _ = np.lib.format.read_array_header_1_0(opened)
            end = opened.tell() + int(np.prod(shape))
            opened.seek(end)
            about = json.loads(opened.read())
            sound = about.pop("hash") == _checked(opened, end, about)
        if sound:
            os.utime(file)  # the least recently used go first
            return Decoded(map_file(file), np.array(about["order"]), dict(about["unreadable"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # cut short, or not one of ours
    _remove(file)
    return None


def _checked(file: BinaryIO, end: int, about: object) -> str:
    """Hash of what a file says about itself, its length, and all that it holds up to `end`."""
    file.flush()
    with ThreadPoolExecutor(max_workers=max(1, torch.get_num_threads())) as pool:
        parts = pool.map(lambda start: _piece(file.name, start, min(PIECE, end - start)), range(0, end, PIECE))
        digest = hashlib.blake2b(json.dumps([end, about]).encode(), digest_size=16)
        for part in parts:
            digest.update(part)
    file.seek(end)
    return digest.hexdigest()


def _piece(file: str, start: int, size: int) -> bytes:
    with Path(file).open("rb", buffering=0) as part:
        part.seek(start)
        return hashlib.blake2b(part.read(size)).digest()


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


# ── the folder ────────────────────────────────────────────────────────────────────────────────────────────────────


def _make_room(folder: Path, size: int) -> None:
    """Remove what was not used for longest until `size` bytes more are within the budget; and what was left behind."""
    budget = disk_budget(folder)
    if size > budget:
        raise DataError(f"the decoded images take {_gb(size)} of disk, and {_gb(budget)} are allowed: {_larger(size)}")
    total = size
    for used, bytes_, file in sorted(_files(folder), reverse=True):
        total += bytes_
        too_much = file.suffix == ".npy" and total > budget
        if too_much or (file.suffix == ".part" and time.time() - used > LEFTOVER):
            _remove(file)


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When each file was used last, its bytes, and where it is."""
    for file in folder.iterdir():
        with suppress(OSError):  # another process removes files too
            yield file.stat().st_mtime, file.stat().st_size, file


def _remove(file: Path) -> None:
    with suppress(OSError):  # another process may have removed it; Windows removes nothing that is mapped
        file.unlink()


def _why(error: OSError, folder: Path, size: int) -> str:
    if error.errno in FULL:
        return (
            f"no room for {_gb(size)} of decoded images in {folder}: free some, set TLNB_CACHE to a folder on a "
            "larger disk, or give a smaller --size"
        )
    return f"{folder} cannot be written ({error.strerror}): set TLNB_CACHE to a folder of yours"


def _larger(size: int) -> str:
    return f"set TLNB_DISK={size // 10**9 + 1}GB, or give a smaller --size"


def _gb(count: int) -> str:
    return f"{count / 1e9:,.2f} GB"
