"""A zip or tar file of photos, unpacked once into the cache folder: nothing outside it is written, and no more than fits."""

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
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from tlnb.core.data.decoding import Telling
from tlnb.core.runtime.errors import DataError, one_line
from tlnb.core.runtime.limits import cache_folder, disk_budget
from tlnb.core.storage.checked_arrays import LEFTOVER
from tlnb.core.storage.download import sweep

ZIP = (".zip",)
TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
PIECE = 2**20
MAX_ENTRIES = 10**6  # entries
NAME_BYTES = 255
SHOWN_CHARACTERS = 80  # characters of an entry's name
LONGEST_HEADER = 2**20  # bytes that a tar file may take to say one entry's name
MAX_RATIO, FREE_BYTES = (
    100,
    10**8,
)  # no photos unpack to so many times the file, once that is more than so many bytes
HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
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
)  # what a damaged archive raises


@dataclass(frozen=True)
class Entry:
    """A file in an archive."""

    name: str  # as it stands there
    size: int  # bytes, unpacked, as the archive says
    refused: str  # why its kind is not taken; empty for a plain file
    open: Callable[[], IO[bytes]]
    checksum: int | None = None  # CRC-32, where the archive has one

    @property
    def place(self) -> PurePosixPath:
        """Where it goes; programs on Windows write backslashes."""
        return PurePosixPath(self.name.replace("\\", "/"))

    @property
    def shown(self) -> str:
        """The name, fit to be shown: it may be of any characters, and long."""
        return one_line(self.name)[:SHOWN_CHARACTERS]


def archive_ending(file: Path) -> str:
    """How the name of an archive that can be unpacked ends; empty for any other file."""
    name = file.name.lower()
    return next((ending for ending in (*ZIP, *TAR) if name.endswith(ending)), "")


def unpacked(file: Path, telling: Telling | None = None) -> tuple[Path, list[str]]:
    """The folder with what a zip or tar file holds, and the entries that are not taken, with the reason.

    What killed kernels left half unpacked is removed, whatever file it came from.

    Raises:
        DataError: damaged, encrypted, more than the disk budget, or no room.
    """
    state = file.stat()
    identity = f"{file.absolute()}|{state.st_size}|{state.st_mtime_ns}"
    target = (
        cache_folder()
        / "archives"
        / hashlib.blake2b(identity.encode(errors="replace"), digest_size=8).hexdigest()
    )
    sweep(target.parent.glob("*.part"), LEFTOVER)
    try:
        with (_tar if archive_ending(file) in TAR else _zip)(file) as entries:
            good, refused = _sorted_out(
                entries if target.is_dir() else _bounded(file, entries, target.parent)
            )
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
            f"{file.name} cannot be unpacked in {target.parent} ({error.strerror or error}): set TLNB_CACHE to a folder with room"
        ) from None
    os.utime(target)
    return target, refused


# ── the kinds of archives ─────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _zip(file: Path) -> Iterator[Iterator[Entry]]:
    with zipfile.ZipFile(file) as archive:
        yield (
            _zip_entry(archive, info)
            for info in archive.infolist()
            if not info.is_dir() and info.filename[-1:] != "\\"
        )


def _zip_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Entry:
    why = (
        "a link"
        if stat.S_ISLNK(info.external_attr >> 16)
        else "encrypted"
        if info.flag_bits & 1
        else ""
    )
    return Entry(info.filename, info.file_size, why, lambda: archive.open(info), info.CRC)


class _ShortHeaders(tarfile.TarInfo):
    """An entry of a tar file whose name and attributes are read into memory only where they are short."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.size > LONGEST_HEADER and self.type in HEADERS:
            raise ValueError(f"an entry's name of {self.size:,} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]  # private, and of that name since Python 2.6


@contextmanager
def _tar(file: Path) -> Iterator[Iterator[Entry]]:
    with tarfile.open(file, tarinfo=_ShortHeaders, errorlevel=2) as archive:
        yield (_tar_entry(archive, info) for info in archive if not info.isdir())


def _tar_entry(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Entry:
    why = (
        ""
        if info.isreg() and not info.issparse()
        else "a link"
        if info.issym() or info.islnk()
        else "not a regular file"
    )

    def opened() -> IO[bytes]:
        content = archive.extractfile(info)
        if content is None:
            raise ValueError(f"{one_line(info.name)[:SHOWN_CHARACTERS]} holds nothing")
        return content

    return Entry(info.name, info.size, why, opened)


# ── what is taken ─────────────────────────────────────────────────────────────────────────────────────────────────


def _bounded(file: Path, entries: Iterable[Entry], folder: Path) -> Iterator[Entry]:
    """The entries, as long as they are not too many or too large by what they say; a tar file is read no further."""
    size, packed, budget = 0, max(1, file.stat().st_size), disk_budget(folder)
    for number, entry in enumerate(entries):
        size += entry.size
        if number >= MAX_ENTRIES:
            raise ValueError(f"more than {MAX_ENTRIES:,} entries")
        if size > FREE_BYTES and size > MAX_RATIO * packed:
            raise DataError(
                f"{file.name} unpacks to {size // packed:,} times its size: that is no archive of photos"
            )
        if size > budget:
            raise DataError(
                f"{file.name} unpacks to {size / 1e9:,.2f} GB or more, and {budget / 1e9:,.2f} GB are allowed: "
                f"set TLNB_DISK={size // 10**9 + 1}GB"
            )
        yield entry


def _sorted_out(entries: Iterable[Entry]) -> tuple[list[Entry], list[str]]:
    good, refused = [], []
    for entry in entries:
        why = _why_not(entry)
        if why:
            refused.append(f"{entry.shown}: {why}")
        else:
            good.append(entry)
    return good, refused


def _why_not(entry: Entry) -> str:
    """Why an entry is not taken; empty for a good one."""
    windows = PureWindowsPath(entry.name)
    if entry.place.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        return "leads out of the archive"
    if entry.refused:
        return entry.refused
    if not entry.place.parts:
        return "without a name"
    return (
        "name too long"
        if any(len(p.encode(errors="replace")) > NAME_BYTES for p in entry.place.parts)
        else ""
    )


# ── unpacking ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _is_whole(target: Path, entries: Iterable[Entry]) -> bool:
    """Whether all was unpacked before and still is what the archive holds."""
    try:
        return target.is_dir() and all(_is_same(target / entry.place, entry) for entry in entries)
    except OSError:
        return False


def _is_same(file: Path, entry: Entry) -> bool:
    """By the archive's checksum where it has one, which is faster than by what it holds."""
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
    """One entry, up to the size it says: a bomb says less than it holds."""
    left = entry.size
    with entry.open() as source, out.open("xb") as file:
        while piece := source.read(PIECE):
            left -= len(piece)
            if left < 0:
                raise ValueError(f"{entry.shown} holds more than it says")
            file.write(piece)
