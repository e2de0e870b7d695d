"""Paths given by users: `~` is their home, and unusable paths raise a one-line error."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tlnb.core.runtime.errors import UsageError, one_line

MAX_SHOWN_LENGTH = 80  # characters
MAX_TEXT_BYTES = 5 * 10**8  # bytes of a table, a session, a job
# pseudo file systems; reading some of their files never ends
SYSTEM_FOLDERS = (("proc",), ("sys",), ("dev",)) if os.sep == "/" else ()


def is_file(path: Path) -> bool:
    """Whether a file exists; False, where pathlib raises, if the folder may not be read."""
    return os.path.isfile(path)  # noqa: PTH113


def is_there(path: Path) -> bool:
    """Whether a file or folder exists; False if its parent may not be read."""
    return os.path.exists(path)  # noqa: PTH110


def is_folder(path: Path) -> bool:
    """Whether a folder exists; False if its parent may not be read."""
    return os.path.isdir(path)  # noqa: PTH112


def is_link(path: Path) -> bool:
    """Whether the path itself is a symbolic link."""
    return os.path.islink(path)  # noqa: PTH114


def read_text(path: Path, most: int = MAX_TEXT_BYTES, encoding: str = "utf8") -> str:
    """The text of a regular file.

    Raises:
        OSError: it cannot be read, is larger than `most` bytes, or is a pipe or device, where
            reading might never end.
        UnicodeDecodeError: it is not text in this encoding.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"larger than {most / 1e6:,.0f} MB")
    return content.decode(encoding)


def name_beside(target: Path, ending: str = "") -> Path:
    """A hidden name beside a file to write to before it takes the file's place.

    No two writers, of one process or of several, get the same.
    """
    return target.with_name(f".{target.stem[:40]}.{os.getpid()}-{os.urandom(4).hex()}.part{ending}")


@contextmanager
def written_beside(target: Path, ending: str = "") -> Iterator[Path]:
    """A name to write to: the file takes `target`'s place when it is whole, and goes when it is not."""
    half = name_beside(target, ending)
    try:
        half.unlink(missing_ok=True)  # a link of that name would redirect the write
        yield half
        half.replace(target)
    finally:
        with suppress(OSError):
            half.unlink(missing_ok=True)


def user_path(text: str | os.PathLike[str]) -> Path:
    """Turn a user's text into a path; the path need not exist.

    Raises:
        UsageError: a zero byte, a name that is too long, a `~user` that does not exist, a folder
            that may not be entered, a path in a system folder (`/proc`, `/sys`, `/dev`).
    """
    try:
        path = Path(text).expanduser()
        path.stat()
        top = path.resolve().parts[1:3]
        if top[:1] in SYSTEM_FOLDERS and top != ("dev", "shm"):
            raise ValueError("it is in a system folder")
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"{_shortened(text)!r} cannot be used as a path ({reason}): give another file or folder"
        ) from None
    return path


def _shortened(text: str | os.PathLike[str]) -> str:
    words = one_line(os.fspath(text))
    if len(words) <= MAX_SHOWN_LENGTH:
        return words
    half = MAX_SHOWN_LENGTH // 2
    return f"{words[:half]}…{words[-half:]}"
