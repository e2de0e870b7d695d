"""Zip and tar archives of photos, unpacked once into the cache folder.

Nothing outside that folder is written, and no more than the disk budget allows.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from tlnb.core.data.decoding import Telling
from tlnb.core.runtime.errors import DataError, one_line
from tlnb.core.runtime.limits import cache_folder, disk_budget
from tlnb.core.storage.checked_arrays import LEFTOVER
from tlnb.core.storage.download import sweep

ZIP = (".zip",)
TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
PIECE = 2**20  # bytes copied at a time
MAX_ENTRIES = 10**6
NAME_BYTES = 255
SHOWN_CHARACTERS = 80  # of an entry's name
LONGEST_HEADER = 2**20  # bytes in a tar file that may hold one entry's name
# Photos hardly compress: beyond FREE_BYTES, an archive may not unpack to more than MAX_RATIO times
# its size.
MAX_RATIO = 100
FREE_BYTES = 10**8
HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
# What a damaged archive raises.
DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    RuntimeError,
    EOFError,
    ValueError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    LookupError,
    OverflowError,
    MemoryError,
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file in an archive."""

    name: str  # as written in the archive
    size: int  # bytes, unpacked, as the archive says
    refused: str  # why this kind of entry is refused; empty for a plain file
    open: Callable[[], IO[bytes]]
    checksum: int | None = None  # CRC-32, if the archive has one

    @property
    def place(self) -> PurePosixPath:
        """The path below the target folder. Windows programs write backslashes."""
        return PurePosixPath(self.name.replace("\\", "/"))

    @property
    def shown(self) -> str:
        """The name, safe to display: it may contain any characters and be long."""
        return one_line(self.name)[:SHOWN_CHARACTERS]


def archive_ending(file: Path) -> str:
    """The extension of an archive that can be unpacked; empty for any other file."""
    name = file.name.lower()
    return next((ending for ending in (*ZIP, *TAR) if name.endswith(ending)), "")


def unpacked(file: Path, telling: Telling | None = None) -> tuple[Path, list[str]]:
    """Unpack a zip or tar file; return its folder and the refused entries with reasons.

    Folders left half unpacked by killed kernels are removed, whichever file they came from.

    Raises:
        DataError: the archive is damaged, encrypted or larger than the disk budget, or the disk is
            full.
    """
    state = file.stat()
    identity = f"{file.absolute()}|{state.st_size}|{state.st_mtime_ns}|{state.st_ctime_ns}"
    digest = hashlib.blake2b(identity.encode(errors="replace"), digest_size=8).hexdigest()
    target = cache_folder() / "archives" / digest
    sweep(target.parent.glob("*.part"), LEFTOVER)
    try:
        with (_tar if archive_ending(file) in TAR else _zip)(file) as entries:
            unread = entries if target.is_dir() else _bounded(file, entries, target.parent)
            good, refused = _sorted_out(unread)
            if not _is_whole(target, good):
                shutil.rmtree(target, ignore_errors=True)
                _unpack(list(_bounded(file, good, target.parent)), target, telling)
    except FileExistsError:
        raise DataError(
            f"{file.name} holds two entries of one name: unpack it yourself and give the folder"
        ) from None
    except DAMAGED as error:
        raise DataError(
            f"{file.name} cannot be unpacked ({error}): unpack it yourself and give the folder"
        ) from None
    except OSError as error:
        raise DataError(
            f"{file.name} cannot be unpacked in {target.parent} ({error.strerror or error}): "
            "set TLNB_CACHE to a folder with room"
        ) from None
    os.utime(target)
    return target, refused


# ── the kinds of archives ─────────────────────────────────────────────────────────────────────────


@contextmanager
def _zip(file: Path) -> Iterator[Iterator[Entry]]:
    with zipfile.ZipFile(file) as archive:
        files = (info for info in archive.infolist() if not info.is_dir())
        yield (_zip_entry(archive, info) for info in files if info.filename[-1:] != "\\")


def _zip_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Entry:
    why = ""
    if stat.S_ISLNK(info.external_attr >> 16):
        why = "a link"
    elif info.flag_bits & 1:
        why = "encrypted"
    name, size, opened = info.filename, info.file_size, partial(archive.open, info)
    return Entry(name=name, size=size, refused=why, open=opened, checksum=info.CRC)


class _ShortHeaders(tarfile.TarInfo):
    """A tar entry whose name and attributes are read into memory only if they are short."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.size > LONGEST_HEADER and self.type in HEADERS:
            raise ValueError(f"an entry's name of {self.size:,} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]  # private; named so since Python 2.6


@contextmanager
def _tar(file: Path) -> Iterator[Iterator[Entry]]:
    with tarfile.open(file, tarinfo=_ShortHeaders, errorlevel=2) as archive:
        yield (_tar_entry(archive, info) for info in archive if not info.isdir())


def _tar_entry(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Entry:
    why = "not a regular file"
    if info.isreg() and not info.issparse():
        why = ""
    elif info.issym() or info.islnk():
        why = "a link"

    def opened() -> IO[bytes]:
        content = archive.extractfile(info)
        if content is None:
            raise ValueError(f"{one_line(info.name)[:SHOWN_CHARACTERS]} holds nothing")
        return content

    return Entry(name=info.name, size=info.size, refused=why, open=opened)


# ── what is taken ─────────────────────────────────────────────────────────────────────────────────


def _bounded(file: Path, entries: Iterable[Entry], folder: Path) -> Iterator[Entry]:
    """Yield entries, of a tar file one by one, until their number or size exceeds the limits."""
    size, packed, budget = 0, max(1, file.stat().st_size), disk_budget(folder)
    for number, entry in enumerate(entries):
        size += entry.size
        if number >= MAX_ENTRIES:
            raise ValueError(f"more than {MAX_ENTRIES:,} entries")
        if size > FREE_BYTES and size > MAX_RATIO * packed:
            raise DataError(
                f"{file.name} unpacks to {size // packed:,} times its size, which an archive of "
                "photos never does: unpack it yourself and give the folder"
            )
        if size > budget:
            raise DataError(
                f"{file.name} unpacks to {size / 1e9:,.2f} GB or more, and {budget / 1e9:,.2f} GB "
                f"are allowed: set TLNB_DISK={size // 10**9 + 1}GB"
            )
        yield entry


def _sorted_out(entries: Iterable[Entry]) -> tuple[list[Entry], list[str]]:
    judged = [(entry, _why_not(entry)) for entry in entries]
    good = [entry for entry, why in judged if not why]
    return good, [f"{entry.shown}: {why}" for entry, why in judged if why]


def _why_not(entry: Entry) -> str:
    """Why an entry is refused; empty for a good one."""
    windows = PureWindowsPath(entry.name)
    if entry.place.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        return "leads out of the archive"
    if entry.refused:
        return entry.refused
    if not entry.place.parts:
        return "without a name"
    if any(len(p.encode(errors="replace")) > NAME_BYTES for p in entry.place.parts):
        return "name too long"
    return ""


# ── unpacking ─────────────────────────────────────────────────────────────────────────────────────


def _is_whole(target: Path, entries: Iterable[Entry]) -> bool:
    """Whether everything was unpacked before and still matches the archive."""
    try:
        return target.is_dir() and all(_is_same(target / entry.place, entry) for entry in entries)
    except OSError:
        return False


def _is_same(file: Path, entry: Entry) -> bool:
    """Compare checksums if the archive has them, which is faster than comparing contents."""
    if entry.checksum is not None:
        return zlib.crc32(file.read_bytes()) == entry.checksum
    if file.stat().st_size != entry.size:
        return False
    with entry.open() as source:
        return source.read(entry.size) == file.read_bytes()


def _unpack(entries: list[Entry], target: Path, telling: Telling | None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{target.name}.", suffix=".part", dir=target.parent))
    try:
        for number, entry in enumerate(entries, start=1):
            out = unfinished.joinpath(entry.place)
            out.parent.mkdir(parents=True, exist_ok=True)
            _copy(entry, out)
            if telling:
                telling("unpacking", number, len(entries))
        try:
            unfinished.replace(target)
        except OSError:
            if not _is_whole(target, entries):  # another kernel unpacked the same
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _copy(entry: Entry, out: Path) -> None:
    """Copy one entry, up to its declared size: a zip bomb declares less than it holds."""
    left = entry.size
    with entry.open() as source, out.open("xb") as file:
        while piece := source.read(PIECE):
            left -= len(piece)
            if left < 0:
                raise ValueError(f"{entry.shown} holds more than it says")
            file.write(piece)
