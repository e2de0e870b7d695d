"""A zip file of photos, unpacked once into the cache folder: nothing outside it is written, and no more than fits."""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from tlnb.core.decoding import Telling
from tlnb.core.errors import DataError, one_line
from tlnb.core.fetch import sweep
from tlnb.core.kept import LEFTOVER
from tlnb.core.memory import cache_folder, disk_budget

PIECE = 2**20
MANY = 10**6  # entries
NAME_BYTES = 255
SHOWN = 80  # characters of an entry's name
RATIO, FREE = 100, 10**8  # no photos unpack to so many times the file, once that is more than so many bytes
BAD = (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, zlib.error, lzma.LZMAError, struct.error, LookupError,
       OverflowError, MemoryError)  # fmt: skip  # what a damaged archive raises


def unpacked(file: Path, telling: Telling | None = None) -> tuple[Path, list[str]]:
    """The folder with what a zip file holds, and the entries that are not taken, with the reason.

    What killed kernels left half unpacked is removed, whatever file it came from.

    Raises:
        DataError: damaged, encrypted, more than the disk budget, or no room.
    """
    state = file.stat()
    told = f"{file.absolute()}|{state.st_size}|{state.st_mtime_ns}"
    target = cache_folder() / "archives" / hashlib.blake2b(told.encode(errors="replace"), digest_size=8).hexdigest()
    sweep(target.parent.glob("*.part"), LEFTOVER)
    try:
        with zipfile.ZipFile(file) as archive:
            good, refused = _entries(archive)
            if not _is_whole(target, good):
                shutil.rmtree(target, ignore_errors=True)
                _check_room(file, good, target.parent)
                _unpack(archive, good, target, telling)
    except FileExistsError:
        raise DataError(f"{file.name} holds two entries of one name: unpack it yourself and give the folder") from None
    except BAD as error:
        raise DataError(f"{file.name} cannot be unpacked ({error}): unpack it yourself and give the folder") from None
    except OSError as error:
        raise DataError(
            f"{file.name} cannot be unpacked in {target.parent} ({error.strerror or error}): set TLNB_CACHE to a folder with room"
        ) from None
    os.utime(target)
    return target, refused


def _entries(archive: zipfile.ZipFile) -> tuple[list[zipfile.ZipInfo], list[str]]:
    good, refused = [], []
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if len(infos) > MANY:
        raise ValueError(f"{len(infos):,} entries")
    for info in infos:
        why = _why_not(info)
        if why:
            refused.append(f"{_shown(info)}: {why}")
        else:
            good.append(info)
    return good, refused


def _why_not(info: zipfile.ZipInfo) -> str:
    """Why an entry is not taken; empty for a good one."""
    path = PurePosixPath(info.filename)
    windows = PureWindowsPath(info.filename)
    if path.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        return "leads out of the archive"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "a link"
    if info.flag_bits & 1:
        return "encrypted"
    if not path.parts:
        return "without a name"
    return "name too long" if any(len(part.encode(errors="replace")) > NAME_BYTES for part in path.parts) else ""


def _shown(info: zipfile.ZipInfo) -> str:
    """An entry's name, fit to be shown: it may be of any characters, and long."""
    return one_line(info.filename)[:SHOWN]


def _check_room(file: Path, entries: list[zipfile.ZipInfo], folder: Path) -> None:
    """By what the entries say; that they keep to it is seen to while unpacking."""
    size, budget = sum(info.file_size for info in entries), disk_budget(folder)
    if size > FREE and size > RATIO * file.stat().st_size:
        raise DataError(
            f"{file.name} unpacks to {size // file.stat().st_size:,} times its size: that is no archive of photos"
        )
    if size > budget:
        raise DataError(
            f"{file.name} unpacks to {size / 1e9:,.2f} GB, and {budget / 1e9:,.2f} GB are allowed: "
            f"set TLNB_DISK={size // 10**9 + 1}GB"
        )


def _is_whole(target: Path, entries: list[zipfile.ZipInfo]) -> bool:
    """Whether all was unpacked before and still is what the archive says, by its own checksums."""
    if not target.is_dir():
        return False
    try:
        return all(zlib.crc32((target / info.filename).read_bytes()) == info.CRC for info in entries)
    except OSError:
        return False


def _unpack(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo], target: Path, telling: Telling | None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{target.name}.", suffix=".part", dir=target.parent))
    try:
        for number, info in enumerate(entries, start=1):
            out = unfinished.joinpath(*PurePosixPath(info.filename).parts)
            out.parent.mkdir(parents=True, exist_ok=True)
            _copy(archive, info, out)
            if telling:
                telling("unpacking", number, len(entries))
        try:
            unfinished.replace(target)
        except OSError:
            if not _is_whole(target, entries):  # another kernel unpacked the same
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _copy(archive: zipfile.ZipFile, info: zipfile.ZipInfo, out: Path) -> None:
    """One entry, up to the size it says: a bomb says less than it holds."""
    left = info.file_size
    with archive.open(info) as source, out.open("xb") as file:
        while piece := source.read(PIECE):
            left -= len(piece)
            if left < 0:
                raise ValueError(f"{_shown(info)} holds more than it says")
            file.write(piece)
