"""Cached arrays in files: written atomically, verified when read, the oldest evicted.

A file is a `.npy` array, which is memory-mapped, followed by a line of JSON: the writer's facts
about it, and a hash of the whole. It is written under a temporary name and with plain writes: with
a mapping, a full disk would kill the process. Kernels may share a folder; each writes under its own
temporary name, and of two equal files the last one stays.
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
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from tlnb.core.runtime.limits import disk_budget
from tlnb.core.runtime.typed_json import parse

HASH_CHUNK = 2**25  # bytes hashed at a time, in as many threads as torch uses
MAX_JSON_BYTES = 2**27  # bytes of JSON; a file with more was not written by this module
LEFTOVER = 3600  # seconds after which an unfinished file counts as abandoned


def write(
    file: Path,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    parts: Iterable[np.ndarray],
    about: Callable[[], Mapping[str, Any]],
) -> None:
    """Write an array part by part.

    Args:
        parts: contiguous pieces along the first axis.
        about: returns the facts to store, called when all parts are written.

    Raises:
        OSError: the disk is full, or cannot be written to.
        ValueError: the parts do not add up to `shape`.
    """
    # not named by process id: kernels in different containers may have the same one
    unfinished = file.with_name(f"{file.name}.{os.urandom(6).hex()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("w+b") as out:
            descr: Any = np.lib.format.dtype_to_descr(dtype)
            header = {"descr": descr, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(out, header)
            end = out.tell() + math.prod(shape) * dtype.itemsize
            for part in parts:
                _append(out, part.data)
            if out.tell() != end:
                raise ValueError(f"{file.name}: {out.tell()} bytes instead of {end}")
            facts = dict(about())
            _append(out, _json_line(facts, _digest(out, end, facts)).encode())
        unfinished.replace(file)
    finally:
        remove(unfinished)


def _json_line(about: Mapping[str, Any], digest: str) -> str:
    """The exact line of JSON: one that differs only in white space is damaged too."""
    return json.dumps({**about, "hash": digest})


def _append(out: BinaryIO, data: bytes | memoryview) -> None:
    out.write(data)


def read(file: Path) -> dict[str, Any] | None:
    """The stored facts of an intact file; None if it is missing or damaged.

    A damaged file is removed.
    """
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
            text = opened.read(MAX_JSON_BYTES).decode()
            about: dict[str, Any] = parse(text)
            stored = about.pop("hash")
            is_intact = stored == _digest(opened, end, about) and text == _json_line(about, stored)
        if is_intact:
            os.utime(file)  # eviction goes by time of last use
            return about
    except Exception:  # a damaged header makes NumPy's and Python's parsers raise anything
        pass
    remove(file)
    return None


def _digest(file: BinaryIO, end: int, about: object) -> str:
    """Hash of a file's facts, its length, and its content up to `end`."""
    file.flush()
    digest = hashlib.blake2b(json.dumps([end, about]).encode(), digest_size=16)
    starts = range(0, end, HASH_CHUNK)
    with ThreadPoolExecutor(max_workers=max(1, torch.get_num_threads())) as pool:
        for part in pool.map(partial(_hash_of_chunk, file.name, end), starts):
            digest.update(part)
    file.seek(end)
    return digest.hexdigest()


def _hash_of_chunk(file: str, end: int, start: int) -> bytes:
    with Path(file).open("rb", buffering=0) as part:
        part.seek(start)
        return hashlib.blake2b(part.read(min(HASH_CHUNK, end - start))).digest()


# ── the folder ────────────────────────────────────────────────────────────────────────────────────


def make_room(folder: Path, size: int) -> None:
    """Remove the least recently used arrays until `size` more bytes fit the budget.

    Abandoned unfinished files are removed too.

    Raises:
        OSError: `size` is more than the whole budget.
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
    """Time of last use, bytes and path of each file."""
    for file in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):  # another process removes files too
            yield file.stat().st_mtime, file.stat().st_size, file


def remove(file: Path) -> None:
    """Remove a file if possible.

    Another process may have removed it already; Windows refuses to remove mapped files.
    """
    with suppress(OSError):
        file.unlink()
