"""Paths that users give: `~` is their home, and what can be no path is said in one line."""

from __future__ import annotations

import os
from pathlib import Path

from tlnb.core.errors import UsageError, one_line

SHOWN = 80  # characters


def is_file(path: Path) -> bool:
    """Whether a file is there, as far as one may look: where not, pathlib raises."""
    return os.path.isfile(path)  # noqa: PTH113


def is_there(path: Path) -> bool:
    """The same for anything."""
    return os.path.exists(path)  # noqa: PTH110


def is_folder(path: Path) -> bool:
    """The same for a folder."""
    return os.path.isdir(path)  # noqa: PTH112


def user_path(text: str | os.PathLike[str]) -> Path:
    """The path that is meant; whether anything is there is for the caller to see.

    Raises:
        UsageError: a zero byte, a name that is too long, a `~user` that does not exist, a folder that may not be entered.
    """
    try:
        path = Path(text).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        words = one_line(os.fspath(text))
        words = words if len(words) <= SHOWN else f"{words[: SHOWN // 2]}…{words[-SHOWN // 2 :]}"
        raise UsageError(f"{words!r} cannot be used as a path ({reason}): give another file or folder") from None
    return path
