"""Download weights into torch's cache folder.

torch.hub downloads to a temporary file and checks the hash in the file's name. This module adds
progress callbacks, a timeout, a one-line error for each way to fail, and removal of partial files.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse

import torch

from tlnb.core.runtime.errors import ModelError

TIMEOUT = 30.0  # seconds of silence after which a download is abandoned
ABANDONED_AFTER = 600.0  # seconds without a write after which a partial file counts as abandoned
DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
OTHER_FOLDER_LINE = "name another folder with %env TORCH_HOME=FOLDER and load again"

Progress = Callable[[int, int], None]  # bytes so far, bytes in all (0 if the server does not tell)


def cached_file(url: str) -> Path:
    """Where torch keeps the file downloaded from this URL. Creates nothing."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name


def promised_hash(file_name: str) -> str:
    """The start of the SHA-256 in a name such as `resnet18-f37072fd.pth`, else an empty string.

    This is torch.hub's naming convention.
    """
    match = re.search(r"-([0-9a-f]{8,64})\.", file_name)
    return match[1] if match else ""


def file_hash(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(url: str, name: str, progress: Progress | None = None) -> Path:
    """Download a URL into torch's cache folder, unless an intact copy is there already.

    Args:
        name: the model's name, for error messages.

    Raises:
        ModelError: no network, an HTTP error, a timeout, a wrong hash, or a folder that is full or
            not writable.
    """
    file = cached_file(url)
    promised, has_copy = promised_hash(file.name), file.is_file()
    if has_copy and (not promised or file_hash(file).startswith(promised)):
        return file
    bar = TqdmStandIn(progress)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        sweep(file.parent.glob(f"{file.name}.*.partial"), ABANDONED_AFTER)
        with _time_limit(), _replace_tqdm(bar):
            torch.hub.download_url_to_file(url, str(file), promised or None, progress=True)
        if bar.short:  # torch.hub notices this only if the name has a hash
            file.unlink()
            raise RuntimeError
    except (OSError, HTTPException, RuntimeError) as error:
        damaged = f" (the copy in {file.parent} is damaged)" if has_copy else ""
        reason = _reason(error, url, file, bar, name)
        raise ModelError(
            f"the weights of {name} could not be downloaded{damaged}: {reason}"
        ) from None
    return file


class TqdmStandIn:
    """Stands in for tqdm in a library and passes the numbers on; prints nothing."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self.done = self.total = 0

    def __call__(self, *_: Any, total: int | None = None, **__: Any) -> TqdmStandIn:
        self.done, self.total = 0, total or 0
        self.update(0)
        return self

    def update(self, count: int) -> None:
        self.done += count
        if self._progress is not None:
            self._progress(self.done, self.total)

    @property
    def short(self) -> bool:
        """Whether fewer bytes arrived than the server announced."""
        return self.done < self.total

    def __enter__(self) -> TqdmStandIn:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@contextmanager
def _replace_tqdm(bar: TqdmStandIn) -> Iterator[None]:
    """Replace torch.hub's tqdm for one call, because torch.hub takes no callback."""
    hub: Any = torch.hub
    original, hub.tqdm = hub.tqdm, bar
    try:
        yield
    finally:
        hub.tqdm = original


@contextmanager
def _time_limit() -> Iterator[None]:
    """Set a socket timeout: torch.hub sets none, and a silent server would block for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT if before is None else before)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def sweep(leftovers: Iterable[Path], seconds: float) -> None:
    """Remove files and folders of killed kernels: those without a write for `seconds`.

    A running download writes all the time, so it is left alone. What cannot be removed stays.
    """
    with suppress(OSError):  # the folder may be unreadable
        for left in leftovers:
            with suppress(OSError):  # another process may sweep too
                if not _is_old(left, seconds):
                    continue
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def _is_old(left: Path, seconds: float) -> bool:
    """Whether nothing in it was written lately.

    A folder's own time of change does not cover its subfolders.
    """
    before = time.time() - seconds
    inside = left.rglob("*") if left.is_dir() and not left.is_symlink() else ()
    return left.lstat().st_mtime < before and all(path.lstat().st_mtime < before for path in inside)


def _reason(error: Exception, url: str, file: Path, bar: TqdmStandIn, name: str) -> str:
    """Say what went wrong, and the line that would work."""
    host = urlparse(url).hostname
    instead = f"try %tl_load {name} --weights FILE, or %tl_load glyphnet, which needs no network"
    if isinstance(error, HTTPError):
        return f"{host} answered {error.code} {error.reason} for {file.name}; {instead}"
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        free = shutil.disk_usage(file.parent).free
        return f"no room in {file.parent} ({_mb(bar.total)} needed, {_mb(free)} free); {OTHER_FOLDER_LINE}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{file.parent} cannot be written ({error.strerror}); {OTHER_FOLDER_LINE}"
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, TimeoutError):
        return f"{host} sent nothing for {socket.getdefaulttimeout() or TIMEOUT:g} s; {instead}"
    if bar.short:
        return f"it was cut short after {_mb(bar.done)} of {_mb(bar.total)}; {instead}"
    if isinstance(error, RuntimeError):
        match = re.search(r'got "([0-9a-f]{8})', str(error))
        got = match[1] if match else error
        return (
            f"{file.name} has the wrong hash ({got}, not {promised_hash(file.name)[:8]}); {instead}"
        )
    return f"no connection to {host} ({getattr(reason, 'strerror', None) or reason}); {instead}"


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
