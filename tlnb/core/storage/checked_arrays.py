"""Arrays in files that are kept for later: whole or not at all, checked when they are read, the least recently used go.

A file is a `.npy` array, which is mapped, followed by a line of JSON: what its maker says of it, and a hash of all of it.
It is written under another name first and with ordinary writing: through a mapping a full disk would end the process.
Kernels may share a folder; each writes under a name of its own, and the last of two equal files stays.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from tlnb.core.runtime.limits import disk_budget
from tlnb.core.runtime.typed_json import parse

PIECE = 2**25  # bytes that are hashed at a time, in as many threads as torch uses
MOST = 2**27  # bytes of JSON; more than that is no file of ours
LEFTOVER = 3600  # seconds after which an unfinished file belongs to nobody


def write(
    file: Path,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    parts: Iterable[np.ndarray],
    about: Callable[[], Mapping[str, Any]],
) -> None:
    """Write an array part by part.

    Args:
        parts: along the first axis, contiguous.
        about: what is to be known of it, asked when all parts are written.

    Raises:
        OSError: the disk is full, or cannot be written to.
    """
    unfinished = file.with_name(
        f"{file.name}.{os.urandom(6).hex()}.part"
    )  # kernels in containers share process numbers
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("w+b") as out:
            descr: Any = np.lib.format.dtype_to_descr(dtype)
            np.lib.format.write_array_header_1_0(
                out, {"descr": descr, "fortran_order": False, "shape": shape}
            )
            end = out.tell() + math.prod(shape) * dtype.itemsize
            for part in parts:
                _append(out, part.data)
            if out.tell() != end:
                raise ValueError(f"{file.name}: {out.tell()} bytes instead of {end}")
            facts = dict(about())
            _append(out, _text(facts, _checked(out, end, facts)).encode())
        unfinished.replace(file)
    finally:
        remove(unfinished)


def _text(about: Mapping[str, Any], digest: str) -> str:
    """The line of JSON, to the character: one with other white space was damaged, too."""
    return json.dumps({**about, "hash": digest})


def _append(out: BinaryIO, data: bytes | memoryview) -> None:
    out.write(data)


def read(file: Path) -> dict[str, Any] | None:
    """What is known of a file whose array may be mapped; None where it is missing, and removed where it is damaged."""
    if not file.exists():
        return None
    try:
        with file.open("rb") as opened:
            np.lib.format.read_magic(opened)
            shape, _, dtype = np.lib.format.read_array_header_1_0(opened)
            end = opened.tell() + math.prod(shape) * dtype.itemsize
            if end > file.stat().st_size:
                raise ValueError("cut short")
            opened.seek(end)
            text = opened.read(MOST).decode()
            about: dict[str, Any] = parse(text)
            found = about.pop("hash")
            sound = found == _checked(opened, end, about) and text == _text(about, found)
        if sound:
            os.utime(file)  # the least recently used go first
            return about
    except Exception:  # cut short, or not one of ours: a damaged header raises anything in NumPy's and Python's parsers
        pass
    remove(file)
    return None


def _checked(file: BinaryIO, end: int, about: object) -> str:
    """Hash of what a file says about itself, its length, and all that it holds up to `end`."""
    file.flush()
    with ThreadPoolExecutor(max_workers=max(1, torch.get_num_threads())) as pool:
        parts = pool.map(
            lambda start: _piece(file.name, start, min(PIECE, end - start)), range(0, end, PIECE)
        )
        digest = hashlib.blake2b(json.dumps([end, about]).encode(), digest_size=16)
        for part in parts:
            digest.update(part)
    file.seek(end)
    return digest.hexdigest()


def _piece(file: str, start: int, size: int) -> bytes:
    with Path(file).open("rb", buffering=0) as part:
        part.seek(start)
        return hashlib.blake2b(part.read(size)).digest()


# ── the folder ────────────────────────────────────────────────────────────────────────────────────────────────────


def make_room(folder: Path, size: int) -> None:
    """Remove what was not used for longest until `size` bytes more are within the budget; and what was left behind.

    Raises:
        OSError: that is more than the whole budget.
    """
    budget = disk_budget(folder)
    if size > budget:
        raise OSError(errno.ENOSPC, "not enough room on the disk")
    total = size
    for used, bytes_, file in sorted(_files(folder), reverse=True):
        array = file.suffix == ".npy"
        total += bytes_ if array else 0
        if total > budget if array else time.time() - used > LEFTOVER:
            remove(file)


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When each file was used last, its bytes, and where it is."""
    for file in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):  # another process removes files too
            yield file.stat().st_mtime, file.stat().st_size, file


def remove(file: Path) -> None:
    """As far as that goes: another process may have removed it; Windows removes nothing that is mapped."""
    with suppress(OSError):
        file.unlink()
